"""How a network makes the SE block of a layer, whether `SqueezeExcite` or a user's own."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

HINTS = ("expansion",)  # how many times wider the map is than the input of its unit (`MBConv`)


def make_block(se: Callable[..., nn.Module], name: str = "se", **hints: Any) -> nn.Module:
    """Returns an SE block, to be called as block(x) -> x rescaled.

    A block is any linen module that maps a map [n, h, w, c] to one of the same shape; a network
    asks nothing else of it. A factory without fields of its own is enough:

        class Halve(nn.Module):
            @nn.compact
            def __call__(self, x):
                return x / 2

        create_model("resnet50", se=Halve)

    Args:
        se: what a network has as its field `se`: makes the block, called with its name.
        name: of the submodule.
        **hints: what the network knows about the place of the block, see `HINTS`. A factory is
            given those that it names as parameters, and may name none.
    """
    wanted = inspect.signature(se).parameters
    return se(name=name, **{hint: value for hint, value in hints.items() if hint in wanted})
