"""ResNeXt-29 (8x64d) on CIFAR-10 or CIFAR-100.

The argument is the number of classes, 10 (the default) or 100: configs/resnext_cifar.py:100.
This is se_resnext_cifar.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_resnext_cifar


def get_config(classes: str = "10") -> ConfigDict:
    return se_resnext_cifar.get_config(classes, se=False)
