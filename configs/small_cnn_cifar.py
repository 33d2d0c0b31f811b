"""Small CNN on CIFAR-10 or CIFAR-100.

The argument is the number of classes, 10 (the default) or 100: configs/small_cnn_cifar.py:100.
This is se_small_cnn_cifar.py without SE blocks.
"""

from ml_collections import ConfigDict

from configs import se_small_cnn_cifar


def get_config(classes: str = "10") -> ConfigDict:
    return se_small_cnn_cifar.get_config(classes, se=False)
