"""Published weights: reading them and mapping them to this package's networks."""

from se_flax.pretrained.described import preparation
from se_flax.pretrained.load import load_pretrained

__all__ = ["load_pretrained", "preparation"]
