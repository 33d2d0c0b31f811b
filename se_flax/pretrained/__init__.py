"""Published weights: reading them and mapping them to this package's networks."""

from se_flax.pretrained.described import class_names, preparation
from se_flax.pretrained.load import load_pretrained

__all__ = ["class_names", "load_pretrained", "preparation"]
