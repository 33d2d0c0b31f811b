"""Convolution, in the form that is fastest on the platform it is compiled for."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from se_flax.layers.separate import apart

NHWC = ("NHWC", "HWIO", "NHWC")
Sizes = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]
Images = Float[Array, "n h w c"]
Kernel = Float[Array, "kh kw i o"]


def conv_general_dilated(
    lhs: Images,
    rhs: Kernel,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> Float[Array, "n h2 w2 o"]:
    """Computes what `jax.lax.conv_general_dilated` does, on a CPU in other forms that pay there.

    XLA for CPUs has no kernels of their own for some convolutions, and is up to a hundred times
    slower over them than it need be. So a 1x1 convolution is a matrix product there, a depthwise
    one a sum of shifted images, and the weight gradient of any that is not grouped is computed
    from copies that are transposed on their own. On other platforms, and for other convolutions
    (grouped, dilated, not of images), it is XLA's.

    It can be mapped by `jax.vmap` and differentiated repeatedly, in reverse mode and in forward
    mode over reverse mode (`jax.jvp` of `jax.grad`, for products with a Hessian), but not in
    forward mode alone.

    Args:
        lhs: images.
        rhs: the kernel, with i = c / feature_group_count.
        window_strides: vertical, horizontal.
        padding: "SAME", "VALID", or before and after, vertical and horizontal.
        feature_group_count: number of groups; c for a depthwise convolution.
        options: as for `jax.lax.conv_general_dilated`.
    """
    xla = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        feature_group_count=feature_group_count,
        **options,
    )
    dilations = (options.get("lhs_dilation"), options.get("rhs_dilation"))
    if lhs.ndim != 4 or any(set(dilation or (1,)) != {1} for dilation in dilations):
        return xla(lhs, rhs)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    padding = tuple((low, high) for low, high in padding)
    if feature_group_count == 1:
        pointwise = rhs.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))
        on_cpu = functools.partial(_pointwise if pointwise else _dense, strides, padding)
    elif feature_group_count == lhs.shape[-1] == rhs.shape[-1]:
        on_cpu = functools.partial(_depthwise, strides, padding)
    else:
        return xla(lhs, rhs)
    return jax.lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=xla)


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def _with_weight_gradient(gradient):
    """Replaces the gradient of `convolution(strides, padding, lhs, rhs)` with respect to rhs.

    By gradient(strides, padding, lhs, rhs.shape, gradient of the result).
    """

    def decorate(convolution):
        differentiable = jax.custom_vjp(convolution, nondiff_argnums=(0, 1))

        def forward(strides, padding, lhs, rhs):
            return convolution(strides, padding, lhs, rhs), (lhs, rhs)

        def backward(strides, padding, operands, ct):
            lhs, rhs = operands
            _, pullback = jax.vjp(lambda lhs: convolution(strides, padding, lhs, rhs), lhs)
            return *pullback(ct), gradient(strides, padding, lhs, rhs.shape, ct)

        differentiable.defvjp(forward, backward)
        return differentiable

    return decorate


def _dense_weight_gradient(strides, padding, lhs, shape, ct):
    lhs_t = apart(lambda lhs: jnp.transpose(lhs, (3, 1, 2, 0)), lhs)
    ct_t = apart(lambda ct: jnp.transpose(ct, (1, 2, 0, 3)), ct)
    sizes = zip(padding, ct.shape[1:3], strides, shape[:2], lhs.shape[1:3], strict=True)
    padding = [(low, (out - 1) * step + k - n - low) for (low, _), out, step, k, n in sizes]
    gradient = jax.lax.conv_general_dilated(
        lhs_t, ct_t, (1, 1), padding, rhs_dilation=strides, dimension_numbers=NHWC
    )
    return jnp.transpose(gradient, (1, 2, 0, 3))


@_with_weight_gradient(_dense_weight_gradient)
def _dense(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    return jax.lax.conv_general_dilated(lhs, rhs, strides, padding, dimension_numbers=NHWC)


def _pointwise_weight_gradient(strides, padding, lhs, shape, ct):
    lhs = lhs[:, :: strides[0], :: strides[1]]
    # In this order, because XLA transposes the first: the one that was stored, where the second
    # is an expression that it would compute in the order of the transposition.
    return jnp.einsum("nhwi,nhwo->io", lhs, ct)[None, None]


@_with_weight_gradient(_pointwise_weight_gradient)
def _pointwise(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    return jnp.einsum("nhwi,io->nhwo", lhs[:, :: strides[0], :: strides[1]], rhs[0, 0])


def _shifted(lhs: Images, kernel: Sizes, strides: Sizes, padding: Padding) -> Iterator[Images]:
    """Yields, for each place in the kernel, what of the images it is multiplied by."""
    lhs = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    spans = [
        (size - k) // step * step + 1
        for size, k, step in zip(lhs.shape[1:3], kernel, strides, strict=True)
    ]
    for i, j in itertools.product(*map(range, kernel)):
        yield lhs[:, i : i + spans[0] : strides[0], j : j + spans[1] : strides[1]]


def _depthwise_weight_gradient(strides, padding, lhs, shape, ct):
    # The sum over images is written out, for all of them or for sixteen parts: XLA's reductions
    # for CPUs take ten times as long.
    parts = min(16, len(lhs))
    more = ((0, -len(lhs) % parts), (0, 0), (0, 0), (0, 0))
    cts = jnp.split(jnp.pad(ct, more), parts)
    sums = []
    for image in _shifted(lhs, shape[:2], strides, padding):
        images = jnp.split(jnp.pad(image, more), parts)
        sums.append(sum(image * ct for image, ct in zip(images, cts, strict=True)))
    sums = jnp.stack(sums).reshape(*shape[:2], 1, -1, shape[3])
    return jnp.einsum("...pc,p->...c", sums, jnp.ones(sums.shape[-2], sums.dtype))


@_with_weight_gradient(_depthwise_weight_gradient)
def _depthwise(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    images = _shifted(lhs, rhs.shape[:2], strides, padding)
    weights = rhs.reshape(-1, rhs.shape[-1])
    return sum(image * weight for image, weight in zip(images, weights, strict=True))
