"""SE-Inception-v3 on CIFAR.

The argument is the number of classes: configs/se_inception_cifar.py:100.
See cifar_networks_recipe.py for the recipe.
"""

from ml_collections import ConfigDict

from configs.cifar_networks_recipe import inception_cifar


def get_config(classes: str = "10") -> ConfigDict:
    return inception_cifar("se_", classes)
