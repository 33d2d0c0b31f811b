"""Three-layer CNN on CIFAR-10, its second layer a variant of the SE block.

The argument is the variant: configs/se_variants_cnn3.py:bump, "standard" (the SE block),
"slow_squeeze", "slow_excite" or "slow_squeeze_slow_excite", or "default" for the convolution.
See se_variants_recipe.py for the recipe.
"""

from ml_collections import ConfigDict

from configs.se_variants_recipe import se_variants_recipe


def get_config(variant: str = "standard") -> ConfigDict:
    return se_variants_recipe("cnn3", variant)
