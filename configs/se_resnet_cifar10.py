"""SE-ResNet on CIFAR-10; the argument is the depth: configs/se_resnet_cifar10.py:56.

Weight decay is 1e-4, as published for CIFAR-10 (He et al., section 4.2).
See cifar_recipe.py for the rest.
"""

from ml_collections import ConfigDict

from configs.cifar_recipe import cifar_recipe


def get_config(depth: str = "110") -> ConfigDict:
    return cifar_recipe("se_", depth, "cifar10", weight_decay=1e-4)
