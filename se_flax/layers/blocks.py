"""The registry of blocks: each name can be used in place of "se" in a network."""

import functools
import inspect
from collections.abc import Callable

import flax.linen as nn

from se_flax.errors import check_choice
from se_flax.layers.cbam import CBAM
from se_flax.layers.eca import ECA
from se_flax.layers.effective_se import EffectiveSE
from se_flax.layers.gather_excite import GatherExcite
from se_flax.layers.global_context import GlobalContext
from se_flax.layers.make_block import HINTS
from se_flax.layers.selective_kernel import SelectiveKernel
from se_flax.layers.squeeze_excite import (
    Bump,
    SlowSqueezeExcite,
    SlowSqueezeSlowExcite,
    SqueezeExcite,
    SqueezeSlowExcite,
)

# A block maps [n, h, w, c] to the same shape. `make_block` describes how networks create one,
# and docs/blocks.md has a table of them.
BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcite,
    "slow_squeeze": SlowSqueezeExcite,
    "slow_excite": SqueezeSlowExcite,
    "slow_squeeze_slow_excite": SlowSqueezeSlowExcite,
    "bump": Bump,
    "ese": EffectiveSE,
    "eca": ECA,
    "cbam": CBAM,
    "gather_excite": GatherExcite,
    "global_context": GlobalContext,
}

# These stand in place of a 3x3 convolution, so that only networks with a place for them take them.
CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {"sk": SelectiveKernel}


def block_of(se: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module] | None:
    """Returns the factory of a named block; returns anything but a string unchanged.

    Raises:
        UserError: if `se` is a string that is neither in `BLOCKS` nor in `CONVOLUTIONS`.
    """
    if isinstance(se, str):
        known = BLOCKS | CONVOLUTIONS
        check_choice("block", se, known)
        return known[se]
    return se


def replaces_convolution(se: Callable[..., nn.Module] | None) -> bool:
    """Returns whether a block stands in place of a convolution; the others follow a layer."""
    return se is not None and factory_of(se) in CONVOLUTIONS.values()


def fields_of(se: Callable[..., nn.Module] | None) -> set[str]:
    """Returns the names of the fields that a block factory accepts."""
    if se is None:
        return set()
    return set(inspect.signature(factory_of(se)).parameters) - {"name", "parent", *HINTS}


def factory_of(se: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Returns the factory in a partial application of it."""
    while isinstance(se, functools.partial):
        se = se.func
    return se
