"""Forms for CPUs where XLA's own are slow; delete this file once they no longer pay there.

`python -m experiments.speed` measures whether they do, beside Flax's own layers. What takes their
place then is `nn.Conv`, `nn.max_pool` and a plain sum, which other platforms get already.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")
Sizes = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]
Images = Float[Array, "n h w c"]
Halved = Float[Array, "n h//2 w//2 c"]
Kernel = Float[Array, "kh kw i o"]


def conv_general_dilated(
    lhs: Float[Array, "n *size c"],
    rhs: Float[Array, "*kernel i o"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> Float[Array, "n *size2 o"]:
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


def max_pool_2x2(x: Images) -> Halved:
    """Returns the maximum of each 2x2 square; an odd last row or column is left out.

    As `flax.linen.max_pool(x, (2, 2), (2, 2))`, whose gradient, which goes to the first of equal
    values, XLA computes on a CPU one window after another: 34 ms for [64, 32, 32, 32] where the
    form for CPUs here takes 2 (two cores, float32).
    """
    return jax.lax.platform_dependent(
        x, cpu=_max_by_slices, default=lambda x: nn.max_pool(x, (2, 2), (2, 2))
    )


def residual_sum(
    shortcut: Float[Array, "..."],
    branch: Float[Array, "..."],
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] | None = None,
) -> Float[Array, "..."]:
    """Returns activation(shortcut + branch); the activation may be None.

    On a CPU the sum is stored. Otherwise a sum whose shortcut is the sum before it would be
    computed again, with all the sums before it, by every reader, and the time of a step grow with
    the square of the depth (110 layers: by a factor of 2.6).

    It can be differentiated like `conv_general_dilated`.
    """

    def add(shortcut, branch):
        total = shortcut + branch
        return total if activation is None else activation(total)

    return jax.lax.platform_dependent(
        shortcut, branch, cpu=functools.partial(_stored, add), default=add
    )


def _apart(function: Callable[..., Any], *args: Any) -> Any:
    """Returns function(*args), computed in a call that XLA is asked not to inline.

    XLA for CPUs fuses an expression into every operation that reads it, which computes it again
    each time. The arguments and the results of such a call are computed once and stored.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stored(function, *args):
    """Returns function(*args), stored.

    Without gradients only the result is kept apart, so that the function joins what its arguments
    are made of: the scaling of an SE block, or a batch norm. With gradients the whole function is;
    joined, the gradients take a third longer (SE-ResNet-50).
    """
    return _apart(lambda result: result, function(*args))


_stored.defvjp(
    lambda function, *args: jax.vjp(functools.partial(_apart, function), *args),
    lambda function, pullback, ct: pullback(ct),
)


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
    lhs_t = _apart(lambda lhs: jnp.transpose(lhs, (3, 1, 2, 0)), lhs)
    ct_t = _apart(lambda ct: jnp.transpose(ct, (1, 2, 0, 3)), ct)
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


def _max_by_slices(x: Images) -> Halved:
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    rows = _first_larger(x[:, :height, 0:width:2], x[:, :height, 1:width:2])
    return _first_larger(rows[:, 0::2], rows[:, 1::2])


def _first_larger(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the larger, NaN if either is; the gradient for equal ones goes to the first."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
