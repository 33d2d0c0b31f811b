"""What the attention blocks share: means over positions, rescaling, and checks of fields."""

from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError

Maps = Float[Array, "*batch h w c"]
Gates = Float[Array, "*batch c"]


@runtime_checkable
class TakesMeans(Protocol):
    """A block that needs only the channels' means, so that batch norm can include it.

    It computes x * excite(means over positions of x). See `se_flax.layers.batch_norm`.
    """

    dtype: DTypeLike | None
    takes_means: bool

    def excite(self, z: Gates) -> Gates:
        """Returns the gate of each channel for the channels' means."""
        ...


def channel_means(x: Maps, dtype: DTypeLike | None) -> Gates:
    """Returns means over positions, in `dtype` or the type of x; computed in float32 or more."""
    precision = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.mean(x, axis=(-3, -2), dtype=precision).astype(dtype or x.dtype)


def rescaled(x: Maps, gate: Gates) -> Maps:
    """Returns x with each channel multiplied by its gate."""
    return x.astype(gate.dtype) * jnp.expand_dims(gate, (-3, -2))


def check_map(block: nn.Module, x: Array) -> None:
    """Raises `UserError` unless x is a feature map [..., height, width, channels]."""
    if x.ndim < 3:
        raise UserError(
            f"{type(block).__name__} must stand after a layer that returns feature maps "
            f"[..., height, width, channels], not arrays of shape {list(x.shape)}"
        )


def bottleneck_width(block: Any, channels: int) -> int:
    """Returns a block's `width`, or as many channels as its `reduction` and `expansion` leave."""
    if block.width is not None:
        return block.width
    return max(1, int(channels / (block.reduction * block.expansion)))


def check_whole(block: nn.Module, *fields: str) -> None:
    """Raises `UserError` unless fields are whole numbers of at least 1, or None by default.

    An `expansion` can be any fraction above 0.
    """
    for field in fields:
        value, default = getattr(block, field), getattr(type(block), field)
        is_ratio = field == "expansion" and isinstance(value, Fraction) and value > 0
        is_default = value is None and default is None
        if not (is_default or is_ratio or (isinstance(value, int) and value >= 1)):
            raise UserError(f"{field} must be a whole number of at least 1, not {value!r}")


def check_odd(block: nn.Module, field: str) -> None:
    """Raises `UserError` if a field, the size of a kernel, is even."""
    check_whole(block, field)
    value = getattr(block, field)
    if value is not None and value % 2 == 0:
        raise UserError(f"{field} must be odd, so that the kernel has a centre, not {value}")
