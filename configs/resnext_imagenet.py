"""ResNeXt (32x4d) on ImageNet; the argument is the depth: configs/resnext_imagenet.py:101.

50 or 101 layers. See imagenet_recipe.py for the rest.
"""

from ml_collections import ConfigDict

from configs.imagenet_recipe import check_argument, imagenet_recipe


def get_config(depth: str = "50") -> ConfigDict:
    check_argument(depth, ("50", "101"))
    return imagenet_recipe(f"resnext{depth}_32x4d")
