"""Computations kept apart from what surrounds them, where XLA joins too much."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Returns function(*args), computed in a call that XLA is asked not to inline.

    For CPUs, where XLA fuses an expression into every operation that reads it, which computes it
    again each time. The arguments and the results of the call are computed once and stored.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*args)
