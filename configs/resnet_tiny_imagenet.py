"""ResNet on Tiny ImageNet; the argument is the depth: configs/resnet_tiny_imagenet.py:34.

This is se_resnet_tiny_imagenet.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_resnet_tiny_imagenet


def get_config(depth: str = "18") -> ConfigDict:
    return se_resnet_tiny_imagenet.get_config(depth, se=False)
