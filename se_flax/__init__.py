"""Squeeze-and-Excitation networks in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from se_flax.layers.add_se import add_se
    from se_flax.layers.squeeze_excite import SqueezeExcite
    from se_flax.loaded import load_run
    from se_flax.models import create_model, list_models
    from se_flax.pretrained import load_pretrained

__all__ = ["SqueezeExcite", "add_se", "create_model", "list_models", "load_pretrained", "load_run"]
__version__ = "0.1.0"

# Imported when first used, so that `python -m se_flax` lists the commands without loading JAX.
_MODULES = {
    "SqueezeExcite": "se_flax.layers.squeeze_excite",
    "add_se": "se_flax.layers.add_se",
    "create_model": "se_flax.models",
    "list_models": "se_flax.models",
    "load_pretrained": "se_flax.pretrained",
    "load_run": "se_flax.loaded",
}
_SUBPACKAGES = ("detection", "layers", "models", "nnx", "pretrained")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"se_flax.{name}")
    raise AttributeError(f"module 'se_flax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
