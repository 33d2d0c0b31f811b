"""How networks create their blocks, whether `SqueezeExcite` or a user's own."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

# expansion: channels of the feature map divided by the channels of its unit's input (`MBConv`).
# norm: factory for batch norms, called with their names; None in networks without batch norm.
HINTS = ("expansion", "norm")


def make_block(se: Callable[..., nn.Module], name: str = "se", **hints: Any) -> nn.Module:
    """Creates an SE block, called as block(x) -> x rescaled.

    A block is any linen module that takes a feature map [n, h, w, c] and returns one of the same
    shape. Networks require nothing else, so a module without any fields is enough:

        class Halve(nn.Module):
            @nn.compact
            def __call__(self, x):
                return x / 2

        create_model("resnet50", se=Halve)

    Args:
        se: block factory, the value of a network's field `se`; called with the name.
        name: name of the submodule.
        **hints: facts about the block's position in the network, see `HINTS`. The factory
            receives only those that are among its parameters.
    """
    wanted = inspect.signature(se).parameters
    return se(name=name, **{hint: value for hint, value in hints.items() if hint in wanted})
