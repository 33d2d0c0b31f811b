"""The Squeeze-and-Excitation block (Hu et al., arXiv:1709.01507, section 3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class SqueezeExcite(nn.Module):
    """Rescales each channel by a gate computed from all channels.

    For a map u of h x w positions and c channels, equations 2 to 4 of the paper:

        z_k = mean over positions of u_k            (squeeze)
        s   = sigmoid(W2 relu(W1 z + b1) + b2)      (excitation)
        y_k = s_k * u_k                             (scale)

    with W1 of shape [c, c / reduction] and W2 of shape [c / reduction, c]. The gate s,
    shape [*batch, c], is sown into the collection `intermediates` as `excitation`.

    Attributes:
        reduction: the ratio r by which the bottleneck is narrower than the input; a
            width that it does not divide is rounded down, to no less than 1.
        spatial_dims: how many axes before the channels are positions: 2 for images,
            1 for sequences, 3 for volumes. All axes before those are batch axes.
        dtype: computation type of the two dense layers and of the product; by default
            that of the input. The mean is taken in float32 whatever the type.

    Raises:
        ValueError: on call, if the input has fewer than `spatial_dims + 1` axes.
    """

    reduction: int = 16
    spatial_dims: int = 2
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """Returns x with its channels rescaled."""
        if x.ndim < self.spatial_dims + 1:
            raise ValueError(
                f"SqueezeExcite(spatial_dims={self.spatial_dims}) needs an input of at least "
                f"{self.spatial_dims + 1} axes, channels last, but got shape {x.shape}"
            )
        channels = x.shape[-1]
        dtype = self.dtype or x.dtype
        positions = tuple(range(-1 - self.spatial_dims, -1))

        squeezed = jnp.mean(x, axis=positions, dtype=jnp.float32).astype(dtype)
        width = max(1, channels // self.reduction)
        hidden = jax.nn.relu(nn.Dense(width, dtype=dtype, name="reduce")(squeezed))
        gate = jax.nn.sigmoid(nn.Dense(channels, dtype=dtype, name="expand")(hidden))
        self.sow("intermediates", "excitation", gate)
        return x.astype(dtype) * jnp.expand_dims(gate, positions)
