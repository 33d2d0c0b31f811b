"""ResNet-18 with a variant of the SE block on CIFAR-10, CIFAR-100 or SVHN.

The argument is variant and data set: configs/se_variants_resnet18.py:bump,cifar100. The variants
are those of se_variants_cnn3.py, "default" for none. See se_variants_recipe.py for the recipe.
"""

from ml_collections import ConfigDict

from configs.se_variants_recipe import se_variants_recipe


def get_config(argument: str = "standard") -> ConfigDict:
    variant, _, dataset = argument.partition(",")
    return se_variants_recipe("resnet18", variant, dataset or "cifar10")
