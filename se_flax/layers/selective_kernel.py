"""The selective kernel unit (SKNet, Li et al., arXiv:1903.06586, section 3)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from se_flax.errors import UserError
from se_flax.layers.cpu import Conv
from se_flax.layers.gates import Gates, Maps, channel_means, check_map, check_whole, rescaled
from se_flax.layers.initializers import he_normal


class SelectiveKernel(nn.Module):
    """Convolves with kernels of several sizes, and mixes the results channel by channel.

    Unlike the other blocks it does not follow a layer: it stands in place of a 3x3 convolution
    with its batch norm and ReLU. For a feature map x and kernels of sizes k_1 to k_M (equations 1
    to 6 of the paper):

        u_m = relu(norm(conv of size k_m x k_m of x))                   (split)
        z   = mean over positions of the sum over m of u_m
        t   = relu(norm(W z))                                           (fuse)
        a_m = softmax over m of A_m t
        y   = sum over m of a_m u_m                                     (select)

    with W of shape [c, d] and M matrices A_m of shape [d, c], for c output channels and
    d = max(c / reduction, min_width). The paper's section 3.2 has M = 2, a 3x3 kernel and a 5x5
    one, which is a 3x3 kernel with dilation 2.

    The gates are sown: those of the last kernel, shape [*batch, c], as `excitation`, and all of
    them, shape [*batch, M, c], as `selection`.

    Networks of this package that have batch norms give theirs. Otherwise the convolutions and the
    first dense layer have biases instead.

    Parameters, with i input channels and g groups: `conv1` to `convM`, [k, k, i / g, c], with
    k = 3 where kernels are dilated, and i / M in place of i with `split_input`; `bn1` to `bnM`;
    `reduce`, [c, d], and `reduce_bn`; `select`, [d, M * c], kernel by kernel.

    Cost: 9ic / g + 2c parameters for each dilated kernel, and (M + 1)cd + 2d; 9ic / g
    multiply-adds for each kernel and position of the output, and (M + 1)cd. A 3x3 convolution and
    its batch norm have 9ic / g + 2c parameters, and 9ic / g multiply-adds per position.

    Attributes:
        kernel_sizes: sizes of the kernels, odd and at least 3; two or more.
        dilate: whether kernels above 3x3 are 3x3 kernels, dilated to that size.
        reduction: reduction ratio.
        min_width: lower bound of d, the paper's L.
        width: d itself; overrides `reduction` and `min_width`.
        split_input: whether each kernel sees its own share of the input's channels, in order,
            as in timm's `skresnet18`; otherwise each sees all of them.
        dtype: computation type; by default the input's. Means and softmax are always computed in
            float32 or more.
        norm: factory for the batch norms, called with fields of `nn.BatchNorm`; see above.

    Raises:
        UserError: if a field has an invalid value; on call, if the input is not a feature map, or
            its channels cannot be split.
    """

    kernel_sizes: tuple[int, ...] = (3, 5)
    dilate: bool = True
    reduction: int = 16
    min_width: int = 32
    width: int | None = None
    split_input: bool = False
    dtype: DTypeLike | None = None
    norm: Callable[..., nn.Module] | None = None

    def __post_init__(self):
        check_whole(self, "reduction", "min_width", "width")
        sizes = self.kernel_sizes
        are_many = isinstance(sizes, list | tuple) and len(sizes) > 1
        if not are_many or not all(isinstance(k, int) and k > 1 and k % 2 for k in sizes):
            raise UserError(
                "kernel_sizes must be two or more odd numbers from 3 on, for example (3, 5), not "
                f"{sizes!r}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Maps,
        features: int | None = None,
        strides: int = 1,
        feature_group_count: int = 1,
    ) -> Float[Array, "*batch h2 w2 c2"]:
        """Returns the mixed convolutions.

        Args:
            x: feature map.
            features: number of output channels; by default as many as x has.
            strides: 1, or 2 to halve height and width, rounded up.
            feature_group_count: number of groups of each convolution.
        """
        check_map(self, x)
        conv = functools.partial(
            Conv,
            features or x.shape[-1],
            strides=strides,
            feature_group_count=feature_group_count,
            use_bias=self.norm is None,
            kernel_init=he_normal,
            dtype=self.dtype or x.dtype,
        )
        maps = [
            self.convolve(m, size, part, conv)
            for m, (size, part) in enumerate(
                zip(self.kernel_sizes, self.parts(x), strict=True), start=1
            )
        ]
        gates = self.select(channel_means(sum(maps), self.dtype))
        return sum(map(rescaled, maps, gates))

    def parts(self, x: Maps) -> list[Float[Array, "*batch h w c2"]]:
        """Returns what each kernel sees."""
        kernels, channels = len(self.kernel_sizes), x.shape[-1]
        if not self.split_input:
            return [x] * kernels
        if channels % kernels:
            raise UserError(
                f"split_input needs a number of channels that {kernels} kernels can share, not "
                f"{channels}"
            )
        share = channels // kernels
        return [
            jax.lax.slice_in_dim(x, m * share, (m + 1) * share, axis=-1) for m in range(kernels)
        ]

    def convolve(
        self, m: int, size: int, x: Maps, conv: Callable[..., nn.Module]
    ) -> Float[Array, "*batch h2 w2 c2"]:
        """Returns the map of kernel m."""
        kernel, dilation = (3, size // 2) if self.dilate else (size, 1)
        y = conv(
            kernel_size=(kernel, kernel),
            kernel_dilation=dilation,
            padding=size // 2,
            name=f"conv{m}",
        )(x)
        return jax.nn.relu(self.norm(name=f"bn{m}")(y) if self.norm else y)

    def select(self, z: Gates) -> list[Gates]:
        """Returns each kernel's gates for the channels' means, and sows them."""
        kernels, channels = len(self.kernel_sizes), z.shape[-1]
        width = self.width or max(channels // self.reduction, self.min_width)
        t = nn.Dense(width, self.norm is None, dtype=z.dtype, name="reduce")(z)
        if self.norm:
            # Means of images differ little; E[t^2] - E[t]^2 would have few correct digits.
            t = self.norm(use_fast_variance=False, name="reduce_bn")(t)
        t = jax.nn.relu(t)
        scores = nn.Dense(kernels * channels, use_bias=False, dtype=z.dtype, name="select")(t)
        scores = scores.reshape(*z.shape[:-1], kernels, channels)
        precision = jnp.promote_types(z.dtype, jnp.float32)
        gates = jax.nn.softmax(scores.astype(precision), axis=-2).astype(z.dtype)
        by_kernel = [jax.lax.index_in_dim(gates, m, -2, keepdims=False) for m in range(kernels)]
        self.sow("intermediates", "excitation", by_kernel[-1])
        self.sow("intermediates", "selection", gates)
        return by_kernel
