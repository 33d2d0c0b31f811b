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


def block_of(se: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module] | None:
    """Returns the block factory for a name in `BLOCKS`; returns anything but a string unchanged.

    Raises:
        UserError: if `se` is a string that is not in `BLOCKS`.
    """
    if isinstance(se, str):
        check_choice("block", se, BLOCKS)
        return BLOCKS[se]
    return se


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
