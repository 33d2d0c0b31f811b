"""ResNet on CIFAR-100; the argument is the depth: configs/resnet_cifar100.py:56.

Weight decay is 5e-4: with 500 images a class, not 5,000, these networks overfit at the 1e-4 of
CIFAR-10; 5e-4 is what Zagoruyko and Komodakis (arXiv:1605.07146) train CIFAR-100 with.
See cifar_recipe.py for the rest.
"""

from ml_collections import ConfigDict

from configs.cifar_recipe import cifar_recipe


def get_config(depth: str = "110") -> ConfigDict:
    return cifar_recipe("", depth, "cifar100", weight_decay=5e-4)
