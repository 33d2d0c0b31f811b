"""The blocks that a network can have in place of the SE block, by name."""

import functools
import inspect
from collections.abc import Callable

import flax.linen as nn

from se_flax.errors import check_choice
from se_flax.layers.make_block import HINTS
from se_flax.layers.squeeze_excite import (
    Bump,
    SlowSqueezeExcite,
    SlowSqueezeSlowExcite,
    SqueezeExcite,
    SqueezeSlowExcite,
)

# A block maps [n, h, w, c] to the same shape; see `make_block` for how a network makes it.
BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcite,
    "slow_squeeze": SlowSqueezeExcite,
    "slow_excite": SqueezeSlowExcite,
    "slow_squeeze_slow_excite": SlowSqueezeSlowExcite,
    "bump": Bump,
}


def block_of(se: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module] | None:
    """Returns what makes a block: of a name, one of `BLOCKS`; anything else as it is.

    Raises:
        UserError: if there is no block of this name.
    """
    if isinstance(se, str):
        check_choice("block", se, BLOCKS)
        return BLOCKS[se]
    return se


def fields_of(se: Callable[..., nn.Module] | None) -> set[str]:
    """Returns the fields that can be given to what makes a block."""
    if se is None:
        return set()
    factory = se
    while isinstance(factory, functools.partial):
        factory = factory.func
    return set(inspect.signature(factory).parameters) - {"name", "parent", *HINTS}
