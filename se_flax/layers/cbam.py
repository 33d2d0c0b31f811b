"""The convolutional block attention module (CBAM, Woo et al., arXiv:1807.06521, section 3)."""

from collections.abc import Callable
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.layers.cpu import Conv
from se_flax.layers.gates import (
    Maps,
    bottleneck_width,
    channel_means,
    check_map,
    check_odd,
    check_whole,
    rescaled,
)


class CBAM(nn.Module):
    """Rescales each channel, and then each position.

    For a feature map u with h x w positions and c channels (equations 2 and 3 of the paper):

        s    = sigmoid(f(mean over positions of u) + f(maximum over positions of u))
        v_k  = s_k * u_k
        m    = sigmoid(norm(conv([mean over channels of v, maximum over channels of v])))
        y_ij = m_ij * v_ij

    with f(z) = W2 relu(W1 z), W1 of shape [c, c / reduction], and a 7x7 convolution from two
    channels to one, which keeps the size. The gates are sown: s, shape [*batch, c], as
    `excitation`, and m, shape [*batch, h, w], as `spatial_excitation`.

    The paper's equation has no norm. Its authors' code has a batch norm there, with which all
    published weights are trained. Networks of this package that have batch norms give theirs.
    Elsewhere (`se_flax.add_se`, networks without batch norm), the convolution has a bias instead.

    Cost: with a bottleneck of d = c / reduction channels: 2cd + 98 parameters, and 2 for the batch
    norm or 1 for the bias; 4cd + 98hw multiply-adds, as f is computed twice. It may stand after
    any layer that returns feature maps.

    Attributes:
        reduction: reduction ratio. The bottleneck's width is c / reduction, rounded down, but at
            least 1.
        width: the bottleneck's width; overrides `reduction`.
        kernel_size: size of the convolution's kernel, odd.
        use_bias: whether f has biases. The paper's equation and timm have none, its authors' code
            has them.
        dtype: computation type of the gates and of the products; by default the input's. Means
            are always computed in float32.
        expansion: see `se_flax.SqueezeExcite`.
        norm: factory for the batch norm, called with its name; see above.

    Raises:
        UserError: if a field has an invalid value; on call, if the input is not a feature map.
    """

    reduction: int = 16
    width: int | None = None
    kernel_size: int = 7
    use_bias: bool = False
    dtype: DTypeLike | None = None
    expansion: int | Fraction = 1
    norm: Callable[..., nn.Module] | None = None

    def __post_init__(self):
        check_whole(self, "reduction", "width", "expansion")
        check_odd(self, "kernel_size")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Returns x with its channels and its positions rescaled."""
        check_map(self, x)
        return self.rescale_positions(self.rescale_channels(x))

    def rescale_channels(self, x: Maps) -> Maps:
        """Returns x with its channels rescaled, and sows their gates."""
        channels, dtype = x.shape[-1], self.dtype or x.dtype
        reduce = nn.Dense(
            bottleneck_width(self, channels), self.use_bias, dtype=dtype, name="reduce"
        )
        expand = nn.Dense(channels, self.use_bias, dtype=dtype, name="expand")
        pooled = channel_means(x, dtype), jnp.max(x, axis=(-3, -2))
        gate = jax.nn.sigmoid(sum(expand(jax.nn.relu(reduce(z))) for z in pooled))
        self.sow("intermediates", "excitation", gate)
        return rescaled(x, gate)

    def rescale_positions(self, x: Maps) -> Maps:
        """Returns x with its positions rescaled, and sows their gates."""
        conv = Conv(
            1,
            (self.kernel_size, self.kernel_size),
            use_bias=self.norm is None,
            dtype=x.dtype,
            name="spatial_conv",
        )
        mean = jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        y = conv(jnp.concatenate([mean, jnp.max(x, axis=-1, keepdims=True)], axis=-1))
        if self.norm is not None:
            y = self.norm(name="spatial_bn")(y)
        gate = jax.nn.sigmoid(y)
        self.sow("intermediates", "spatial_excitation", jnp.squeeze(gate, -1))
        return x * gate
