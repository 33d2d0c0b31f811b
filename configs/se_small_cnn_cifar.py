"""Small CNN with SE blocks on CIFAR.

The argument is the number of classes: configs/se_small_cnn_cifar.py:100.
See cifar_networks_recipe.py for the recipe.
"""

from ml_collections import ConfigDict

from configs.cifar_networks_recipe import small_cnn_cifar


def get_config(classes: str = "10") -> ConfigDict:
    return small_cnn_cifar("se_", classes)
