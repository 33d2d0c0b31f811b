"""Efficient channel attention (ECA-Net, Wang et al., arXiv:1910.03151, section 3)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.errors import UserError
from se_flax.layers.gates import Gates, Maps, channel_means, check_map, check_odd, rescaled


class ECA(nn.Module):
    """Rescales each channel by a gate computed from its own mean and those of k - 1 neighbours.

    For a feature map u with h x w positions and c channels:

        z_k = mean over positions of u_k
        s   = sigmoid(conv(z))
        y_k = s_k * u_k

    where conv is a convolution along the channels with one kernel of size k, zero padding and no
    bias. The gate s, shape [*batch, c], is sown as `excitation`.

    Cost: k parameters and k * c multiply-adds. It may stand after any layer that returns feature
    maps; after a batch norm, both are one pass (`se_flax.layers.batch_norm`).

    Attributes:
        kernel_size: size k of the kernel, odd; by default `adaptive_kernel_size` of c.
        gamma, b: constants of `adaptive_kernel_size`.
        dtype: computation type of the gate and of the product; by default the input's. The
            mean is always computed in float32.

    Raises:
        UserError: if a field has an invalid value; on call, if the input is not a feature map.
    """

    kernel_size: int | None = None
    gamma: float = 2.0
    b: float = 1.0
    dtype: DTypeLike | None = None

    takes_means = True

    def __post_init__(self):
        check_odd(self, "kernel_size")
        if not self.gamma > 0:
            raise UserError(f"gamma must be positive, not {self.gamma!r}")
        super().__post_init__()

    def __call__(self, x: Maps) -> Maps:
        """Returns x with its channels rescaled."""
        check_map(self, x)
        return rescaled(x, self.excite(channel_means(x, self.dtype)))

    @nn.compact
    def excite(self, z: Gates) -> Gates:
        """Returns the gate for the channels' means, and sows it."""
        size = self.kernel_size or adaptive_kernel_size(z.shape[-1], self.gamma, self.b)
        conv = nn.Conv(1, (1, size), use_bias=False, dtype=self.dtype or z.dtype, name="conv")
        row = jnp.expand_dims(z, (-3, -1))  # an image of one row, one pixel for each channel
        gate = jax.nn.sigmoid(jnp.squeeze(conv(row), (-3, -1)))
        self.sow("intermediates", "excitation", gate)
        return gate


def adaptive_kernel_size(channels: int, gamma: float = 2.0, b: float = 1.0) -> int:
    """Returns the odd number nearest to |log2(channels) / gamma + b / gamma|.

    As in the authors' code and timm, the value is rounded down, and if that is even, 1 is added;
    as in timm, the size is at least 3. The blocks of ResNet-50 then have 86 parameters. The paper
    counts 80, which has a size of 5 for 2048 channels, too, where this function returns 7.
    """
    size = int(abs(math.log2(channels) + b) / gamma)
    return max(size + 1 - size % 2, 3)
