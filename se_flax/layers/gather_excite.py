"""Gather-Excite operators (Hu et al., arXiv:1810.12348, sections 2 and 3)."""

from collections.abc import Callable
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError, check_choice
from se_flax.layers.cpu import Conv
from se_flax.layers.gates import (
    Gates,
    Maps,
    bottleneck_width,
    channel_means,
    check_map,
    check_whole,
    rescaled,
)

FORMS = ("theta-", "theta", "theta+")

Gathered = Float[Array, "*batch h2 w2 c"]


class GatherExcite(nn.Module):
    """Rescales each channel at each position by a gate gathered from the positions around it.

    For a feature map u with h x w positions and c channels, each channel by itself:

        z = gather(u)              [h / extent, w / extent, c], sizes rounded up
        s = sigmoid(f(z))          f is the identity, but for theta+
        y = resize(s) * u          to h x w, by nearest neighbour

    The paper's three forms:

        theta-   gather is the mean over windows of (2 extent - 1) x (2 extent - 1) positions, at
                 steps of `extent`; the block has no parameters
        theta    gather is log2(extent) depthwise 3x3 convolutions of stride 2, each followed by
                 batch norm, with ReLU in between
        theta+   the same gather, and f(z) = W2 relu(W1 relu(z) + b1) + b2 with W1 of shape
                 [c, c / reduction], as in SE

    With extent 0, the paper's "global", gather covers the whole map and z has one position: for
    theta- the mean, otherwise one depthwise convolution whose kernel is as large as the map. Such
    a network has parameters for one size of image, and refuses others. SE is the global theta-
    gather with the f of theta+.

    The layers are those of the authors' released networks (github.com/hujie-frank/GENet), down to
    the ReLU before W1. The gate s, of shape [*batch, c] for global theta-, otherwise
    [*batch, h / extent, w / extent, c], is sown as `excitation`.

    Networks of this package that have batch norms give theirs. Elsewhere (`se_flax.add_se`,
    networks without batch norm), the convolutions have biases instead.

    Cost: theta- has neither parameters nor multiply-adds. Each 3x3 convolution has 9c parameters
    and 9c multiply-adds for each position of its output; the global one hwc of both. Each batch
    norm has 2c parameters. f has 2c * c / reduction weights, as many multiply-adds for each
    position of z, and c / reduction + c biases. It may stand after any layer that returns feature
    maps; global theta- after a batch norm is one pass with it (`se_flax.layers.batch_norm`).

    Attributes:
        form: one of `FORMS`.
        extent: ratio of sizes, a power of 2; 0 for the whole map.
        reduction: reduction ratio of theta+. The bottleneck's width is c / reduction, rounded
            down, but at least 1.
        width: the bottleneck's width; overrides `reduction`.
        dtype: computation type of the gates and of the product; by default the input's. Means
            are always computed in float32.
        expansion: see `se_flax.SqueezeExcite`.
        norm: factory for the batch norms, called with their names; see above.

    Raises:
        UserError: if a field has an invalid value; on call, if the input is not a feature map, or
            if it has another size than the parameters.
    """

    form: str = "theta-"
    extent: int = 0
    reduction: int = 16
    width: int | None = None
    dtype: DTypeLike | None = None
    expansion: int | Fraction = 1
    norm: Callable[..., nn.Module] | None = None

    def __post_init__(self):
        check_choice("form", self.form, FORMS)
        check_whole(self, "reduction", "width", "expansion")
        extent = self.extent
        if not isinstance(extent, int) or extent < 0 or extent == 1 or extent & (extent - 1):
            raise UserError(f"extent must be 0, for the whole map, or 2, 4, 8, ..., not {extent!r}")
        super().__post_init__()

    @property
    def takes_means(self) -> bool:
        """Whether the block needs only the channels' means, so that batch norm can include it."""
        return self.form == "theta-" and self.extent == 0

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Returns x, rescaled."""
        check_map(self, x)
        dtype = self.dtype or x.dtype
        if self.takes_means:
            return rescaled(x, self.excite(channel_means(x, dtype)))
        return x.astype(dtype) * resized(self.excite(self.gather(x)), x.shape[-3:-1])

    def gather(self, x: Maps) -> Gathered:
        """Returns the means over windows, or the output of the depthwise convolutions."""
        bias, dtype = self.norm is None, self.dtype or x.dtype
        if self.form == "theta-":
            return window_means(x, self.extent).astype(dtype)
        convolutions = max(1, self.extent.bit_length() - 1)  # log2(extent), or the global one
        for i in range(1, convolutions + 1):
            if i > 1:
                x = jax.nn.relu(x)
            if self.extent == 0:
                x = WholeMapConv(bias, dtype, name="gather_conv1")(x)
            else:
                x = Conv(
                    x.shape[-1],
                    (3, 3),
                    strides=2,
                    padding=1,
                    feature_group_count=x.shape[-1],
                    use_bias=bias,
                    dtype=dtype,
                    name=f"gather_conv{i}",
                )(x)
            if self.norm is not None:
                x = self.norm(name=f"gather_bn{i}")(x)
        return x

    def excite(self, z: Gates) -> Gates:
        """Returns the gates for gathered values, and sows them."""
        if self.form == "theta+":
            dtype, width = self.dtype or z.dtype, bottleneck_width(self, z.shape[-1])
            channels, z = z.shape[-1], jax.nn.relu(z)
            z = jax.nn.relu(nn.Dense(width, dtype=dtype, name="reduce")(z))
            z = nn.Dense(channels, dtype=dtype, name="expand")(z)
        gate = jax.nn.sigmoid(z)
        self.sow("intermediates", "excitation", gate)
        return gate


class WholeMapConv(nn.Module):
    """A depthwise convolution whose kernel, [h, w, 1, c], is as large as the map.

    Attributes:
        use_bias: whether it has a bias.
        dtype: computation type.
    """

    use_bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "*batch 1 1 c"]:
        """Returns one position for each map."""
        height, width, channels = x.shape[-3:]
        known = self.get_variable("params", "kernel")
        if known is not None and known.shape[:2] != (height, width):
            raise UserError(
                f"the parameters of this block are for maps of {known.shape[0]} x "
                f"{known.shape[1]}, not {height} x {width}; pass images of the size that the "
                "network was initialised with, or use another extent than 0"
            )
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (height, width, 1, channels), jnp.float32)
        y = jnp.einsum("...hwc,hwc->...c", x.astype(self.dtype), kernel[:, :, 0].astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return jnp.expand_dims(y.astype(self.dtype), (-3, -2))


def window_means(x: Maps, extent: int) -> Gathered:
    """Returns means over windows that overlap by half, in float32; the padding does not count."""
    alone = (1,) * (x.ndim - 3)  # the batch axes; `nn.avg_pool` takes only one
    window = (*alone, 2 * extent - 1, 2 * extent - 1, 1)
    steps = (*alone, extent, extent, 1)
    padding = [(size // 2, size // 2) for size in window]

    def sums(x):
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, steps, padding)

    return sums(x.astype(jnp.float32)) / sums(jnp.ones((*alone, *x.shape[-3:-1], 1)))


def resized(x: Maps, size: tuple[int, ...]) -> Gathered:
    """Returns x resized by nearest neighbour, or with one position as it is, for a product.

    As in PyTorch, position i of n has the value of position floor(i * m / n) of m.
    """
    if x.shape[-3:-1] == (1, 1):
        return x
    for axis, length in zip((-3, -2), size, strict=True):
        given = x.shape[axis]
        if length % given == 0:  # without a scatter in the gradient
            x = jnp.repeat(x, length // given, axis)
        else:
            x = jnp.take(x, np.arange(length) * given // length, axis)
    return x
