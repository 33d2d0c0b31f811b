"""ResNet on CIFAR-10; the argument is the depth: configs/resnet_cifar10.py:56.

This is se_resnet_cifar10.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_resnet_cifar10


def get_config(depth: str = "110") -> ConfigDict:
    return se_resnet_cifar10.get_config(depth, se=False)
