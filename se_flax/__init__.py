"""Squeeze-and-Excitation networks in JAX and Flax."""

from se_flax.layers.squeeze_excite import SqueezeExcite

__all__ = ["SqueezeExcite"]
__version__ = "0.1.0"
