"""ResNet on ImageNet; the argument is the depth: configs/resnet_imagenet.py:101.

18, 34, 50, 101 or 152 layers. See imagenet_recipe.py for the rest.
"""

from ml_collections import ConfigDict

from configs.imagenet_recipe import check_argument, imagenet_recipe


def get_config(depth: str = "50") -> ConfigDict:
    check_argument(depth, ("18", "34", "50", "101", "152"))
    return imagenet_recipe(f"resnet{depth}")
