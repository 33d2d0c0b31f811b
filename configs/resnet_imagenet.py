"""ResNet on ImageNet; the argument is the depth: configs/resnet_imagenet.py:101.

This is se_resnet_imagenet.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_resnet_imagenet


def get_config(depth: str = "50") -> ConfigDict:
    return se_resnet_imagenet.get_config(depth, se=False)
