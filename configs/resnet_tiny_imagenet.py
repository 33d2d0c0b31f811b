"""ResNet on Tiny ImageNet; the argument is the depth: configs/resnet_tiny_imagenet.py:34.

18, 34 or 50 layers. See tiny_imagenet_recipe.py for the rest.
"""

from ml_collections import ConfigDict

from configs.tiny_imagenet_recipe import tiny_imagenet_recipe


def get_config(depth: str = "18") -> ConfigDict:
    return tiny_imagenet_recipe("", depth)
