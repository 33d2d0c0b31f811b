"""ResNet on CIFAR-100; the argument is the depth: configs/resnet_cifar100.py:56.

This is se_resnet_cifar100.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_resnet_cifar100


def get_config(depth: str = "110") -> ConfigDict:
    return se_resnet_cifar100.get_config(depth, se=False)
