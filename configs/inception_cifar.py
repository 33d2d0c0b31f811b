"""Inception-v3 on CIFAR-10 or CIFAR-100.

The argument is the number of classes, 10 (the default) or 100: configs/inception_cifar.py:100.
This is se_inception_cifar.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_inception_cifar


def get_config(classes: str = "10") -> ConfigDict:
    return se_inception_cifar.get_config(classes, se=False)
