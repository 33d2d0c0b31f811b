"""Published weights: how they are read and how they map to our networks."""

from se_flax.pretrained.load import load_pretrained

__all__ = ["load_pretrained"]
