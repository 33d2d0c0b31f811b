"""The convolution of the pyramid and the heads."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.layers.batch_norm import BatchNorm
from se_flax.layers.cpu import Conv

# Detectron's XavierFill, which torchvision uses for the pyramid as well.
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class ConvNorm(nn.Module):
    """A convolution that keeps height and width, with a bias or with a batch norm.

    Attributes:
        width: number of output channels.
        size: height and width of the kernel, an odd number.
        norm: whether a batch norm with running statistics follows, instead of a bias.
        kernel_init: initialiser of the kernel.
        dtype: computation type.
    """

    width: int
    size: int = 3
    norm: bool = False
    kernel_init: nn.initializers.Initializer = xavier
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w width"]:
        """Returns the output, without an activation."""
        x = Conv(
            self.width,
            (self.size, self.size),
            padding=self.size // 2,
            use_bias=not self.norm,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if not self.norm:
            return x
        return BatchNorm(use_running_average=True, epsilon=1e-5, dtype=self.dtype, name="bn")(x)
