"""Squeeze-and-Excitation networks in JAX and Flax."""

from se_flax.layers.add_se import add_se
from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.loaded import load_run
from se_flax.models import create_model, list_models
from se_flax.pretrained import load_pretrained

__all__ = ["SqueezeExcite", "add_se", "create_model", "list_models", "load_pretrained", "load_run"]
__version__ = "0.1.0"
