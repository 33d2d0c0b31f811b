"""Faster CPU implementations of operations that are slow when XLA compiles them for CPUs.

`python -m experiments.speed` compares them with Flax's own layers. Once they are no longer faster,
delete this file and use `nn.Conv`, `nn.max_pool` and a plain sum, as other platforms already do.
"""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")
FEW_IMAGES = 8
"""The weight gradient of fewer images is computed from about so many strips of them."""
WIDE = 32
"""Output channels from which the matrix product of a convolution is wide enough."""
Sizes = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]
Images = Float[Array, "n h w c"]
Kernel = Float[Array, "kh kw i o"]

_STOCK = contextvars.ContextVar("stock_forms", default=False)


@contextlib.contextmanager
def stock_forms() -> Iterator[None]:
    """Within it, the functions of this file are XLA's own on all platforms."""
    token = _STOCK.set(True)
    try:
        yield
    finally:
        _STOCK.reset(token)


def _by_platform(*args: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    if _STOCK.get():
        return default(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=default)


def conv_general_dilated(
    lhs: Float[Array, "n *size c"],
    rhs: Float[Array, "*kernel i o"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> Float[Array, "n *size2 o"]:
    """Computes `jax.lax.conv_general_dilated`, with faster implementations on CPUs.

    XLA for CPUs has no special kernels for some convolutions and can be a hundred times slower
    than necessary. On CPUs this function computes as matrix products a 1x1 convolution, and one
    whose kernel has more positions than its images or its result; and a depthwise convolution as
    a sum of shifted images. Other ungrouped convolutions with few output channels compute two
    pixels at once. The weight gradient comes from transposed copies of the operands, and the
    gradient for images of strided convolutions is computed phase by phase. On other platforms, and
    for all other convolutions (grouped, dilated, not two-dimensional), it calls XLA's.

    It supports `jax.vmap` and repeated differentiation in reverse mode and in forward mode over
    reverse mode (`jax.jvp` of `jax.grad`, for Hessian-vector products), but not forward mode
    alone.

    Args:
        lhs: images, [n, h, w, c].
        rhs: kernel, [kh, kw, i, o] with i = c / feature_group_count.
        window_strides: vertical and horizontal stride.
        padding: "SAME", "VALID", or ((top, bottom), (left, right)).
        feature_group_count: number of groups; c for a depthwise convolution.
        options: further arguments of `jax.lax.conv_general_dilated`.
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
        on_cpu = functools.partial(_ungrouped, strides, padding)
    elif feature_group_count == lhs.shape[-1] == rhs.shape[-1]:
        on_cpu = functools.partial(_depthwise, strides, padding)
    else:
        return xla(lhs, rhs)
    return _by_platform(lhs, rhs, cpu=on_cpu, default=xla)


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def max_pool(
    x: Images,
    window_shape: Sizes,
    strides: Sizes = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Float[Array, "n h2 w2 c"]:
    """Returns the maximum of each window.

    Equals `flax.linen.max_pool`, and its gradient likewise goes to the first of equal values (of
    those above -inf). On CPUs, XLA computes that gradient one window at a time: 34 ms for windows
    of 2x2 in [64, 32, 32, 32] (two cores, float32), against 2 ms for the CPU implementation here;
    55 ms for windows of 3x3 with stride 2 in [32, 32, 32, 64] (one core), against 4 ms.
    """
    xla = functools.partial(
        nn.max_pool, window_shape=window_shape, strides=strides, padding=padding
    )
    if 0 in jax.eval_shape(xla, x).shape:
        return xla(x)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window_shape, strides, padding)
    padding = tuple((low, high) for low, high in padding)
    on_cpu = functools.partial(_max_by_slices, window_shape, strides, padding)
    return _by_platform(x, cpu=on_cpu, default=xla)


max_pool_2x2 = functools.partial(max_pool, window_shape=(2, 2), strides=(2, 2))


def residual_sum(
    shortcut: Float[Array, "..."],
    branch: Float[Array, "..."],
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] | None = None,
) -> Float[Array, "..."]:
    """Returns activation(shortcut + branch), or the sum alone if the activation is None.

    On CPUs the sum is written to memory. Otherwise XLA would recompute it, and all sums before it
    on the identity path, in every operation that reads it. The time of a step would then grow with
    the square of the depth (at 110 layers, it would be 2.6 times as long).

    It supports the same kinds of differentiation as `conv_general_dilated`.
    """

    def add(shortcut, branch):
        total = shortcut + branch
        return total if activation is None else activation(total)

    return _by_platform(shortcut, branch, cpu=functools.partial(_stored, add), default=add)


def _apart(function: Callable[..., Any], *args: Any) -> Any:
    """Returns function(*args), computed in a call that XLA does not inline.

    XLA for CPUs fuses an expression into every operation that reads it and so recomputes it each
    time. The arguments and results of a call that is not inlined are computed once and stored.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stored(function, *args):
    """Returns function(*args), stored in memory.

    Without gradients, only the result goes through `_apart`, so that XLA can fuse the function with
    the operations before it (the scaling of an SE block, or a batch norm). With gradients, the
    whole function goes through it: fused, the gradients take a third longer (SE-ResNet-50).
    """
    return _apart(lambda result: result, function(*args))


_stored.defvjp(
    lambda function, *args: jax.vjp(functools.partial(_apart, function), *args),
    lambda function, pullback, ct: pullback(ct),
)


def _with_weight_gradient(gradient, image_gradient=None):
    """Sets a convolution's gradient for rhs: `gradient(strides, padding, lhs, rhs.shape, ct)`.

    The gradient for lhs is `image_gradient(strides, padding, lhs, rhs, ct)`, by default that of the
    convolution as it is written.
    """

    def decorate(convolution):
        differentiable = jax.custom_vjp(convolution, nondiff_argnums=(0, 1))

        def forward(strides, padding, lhs, rhs):
            return convolution(strides, padding, lhs, rhs), (lhs, rhs)

        def backward(strides, padding, operands, ct):
            lhs, rhs = operands
            of_images = image_gradient or functools.partial(_pulled_back, convolution)
            return (
                of_images(strides, padding, lhs, rhs, ct),
                gradient(strides, padding, lhs, rhs.shape, ct),
            )

        differentiable.defvjp(forward, backward)
        return differentiable

    return decorate


def _pulled_back(convolution, strides, padding, lhs, rhs, ct):
    (gradient,) = jax.vjp(lambda lhs: convolution(strides, padding, lhs, rhs), lhs)[1](ct)
    return gradient


def _ungrouped(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    """Computes an ungrouped convolution in the form that suits its sizes."""
    axes = zip(lhs.shape[1:3], rhs.shape[:2], strides, padding, strict=True)
    (rows, vertical), (columns, horizontal) = (_seen(*axis) for axis in axes)
    rhs, padding = rhs[rows, columns], (vertical, horizontal)
    axes = list(zip(lhs.shape[1:3], rhs.shape[:2], strides, padding, strict=True))
    size, positions = math.prod(lhs.shape[1:3]), math.prod(rhs.shape[:2])
    outputs = math.prod(max(0, _outputs(*axis)) for axis in axes)
    if positions == 1 and all(low == 0 and -step < high <= 0 for _, _, step, (low, high) in axes):
        form = _pointwise
    elif 0 < min(size, outputs) < positions:
        # Either needs copies: of the kernel's parts, or of the windows. The fewer, the faster.
        # `jax.export` leaves the batch size open.
        n = lhs.shape[0] if isinstance(lhs.shape[0], int) else math.inf
        form = _by_positions if size * rhs.shape[3] <= n * positions else _by_windows
    else:
        form = _dense
    return form(strides, padding, lhs, rhs)


def _outputs(size: int, kernel: int, step: int, padding: Sizes) -> int:
    return (size + sum(padding) - kernel) // step + 1


def _seen(size: int, kernel: int, step: int, padding: Sizes) -> tuple[slice, Sizes]:
    """Returns the part of a kernel's axis that meets pixels, and the padding for it alone."""
    low = padding[0]
    last = (_outputs(size, kernel, step, padding) - 1) * step
    start, stop = max(0, low - last), min(kernel, size + low)
    if last < 0 or start >= stop or stop - start == kernel:
        return slice(kernel), padding
    return slice(start, stop), (low - start, last + stop - size - low)


def _dense_weight_gradient(strides, padding, lhs, shape, ct):
    parts = min(FEW_IMAGES // max(1, len(lhs)), ct.shape[1] // 4)
    if parts > 1:
        padding, lhs, ct = _in_strips(parts, strides, padding, lhs, shape, ct)
    lhs_t = _apart(lambda lhs: jnp.transpose(lhs, (3, 1, 2, 0)), lhs)
    ct_t = _apart(lambda ct: jnp.transpose(ct, (1, 2, 0, 3)), ct)
    sizes = zip(padding, ct.shape[1:3], strides, shape[:2], lhs.shape[1:3], strict=True)
    padding = [(low, (out - 1) * step + k - n - low) for (low, _), out, step, k, n in sizes]
    gradient = jax.lax.conv_general_dilated(
        lhs_t, ct_t, (1, 1), padding, rhs_dilation=strides, dimension_numbers=NHWC
    )
    return jnp.transpose(gradient, (1, 2, 0, 3))


def _in_strips(parts, strides, padding, lhs, shape, ct):
    """Cuts images into strips.

    The weight gradient is a convolution whose channels are the images, which is slow with few of
    them: in strips, it takes half to a quarter of the time (1 or 2 images of 64x64, 64 channels).
    The strips of lhs overlap, so that each has all pixels that its strip of ct was computed from.
    """
    (low, _), horizontal = padding
    rows = -(-ct.shape[1] // parts)
    step, size = rows * strides[0], (rows - 1) * strides[0] + shape[0]
    sides = (low, (parts - 1) * step + size - low - lhs.shape[1], 0)
    lhs = jax.lax.pad(lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), sides, *[(0, 0, 0)] * 2])
    lhs = jnp.concatenate([lhs[:, i * step : i * step + size] for i in range(parts)])
    ct = jnp.pad(ct, ((0, 0), (0, rows * parts - ct.shape[1]), (0, 0), (0, 0)))
    return ((0, 0), horizontal), lhs, jnp.concatenate(jnp.split(ct, parts, axis=1))


def _xla(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    return jax.lax.conv_general_dilated(lhs, rhs, strides, padding, dimension_numbers=NHWC)


def _by_phases(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    """Computes a strided convolution as a sum of convolutions of every second row and column.

    XLA computes the gradient for lhs with zeros between the pixels of ct, which takes as many
    times more products as lhs has phases, and at times twenty times longer (64x64, 16 channels).
    """
    outputs, sides = [], [(0, 0, 0)]
    axes = zip(lhs.shape[1:3], rhs.shape[:2], strides, padding, strict=True)
    for size, k, step, (low, high) in axes:
        outputs.append(_outputs(size, k, step, (low, high)))
        most = -(-k // step)  # rows or columns of the kernel in a phase
        sides.append((low, (outputs[-1] + most - 1) * step - size - low, 0))
    lhs = jax.lax.pad(lhs, jnp.zeros((), lhs.dtype), [*sides, (0, 0, 0)])
    phases = [(lhs.shape[i + 1] // step, step) for i, step in enumerate(strides)]
    lhs = lhs.reshape(len(lhs), *itertools.chain(*phases), lhs.shape[3])
    total = jnp.zeros((), lhs.dtype)
    for i, j in itertools.product(*map(range, strides)):
        part = rhs[i :: strides[0], j :: strides[1]]
        if part.size:
            rows, columns = (n + k - 1 for n, k in zip(outputs, part.shape, strict=False))
            total += _xla((1, 1), ((0, 0), (0, 0)), lhs[:, :rows, i, :columns, j], part)
    return total


def _dense_image_gradient(strides, padding, lhs, rhs, ct):
    if strides != (1, 1):
        return _pulled_back(_by_phases, strides, padding, lhs, rhs, ct)
    sides = [
        (k - 1 - low, k - 1 - high) for k, (low, high) in zip(rhs.shape, padding, strict=False)
    ]
    return _windowed(strides, tuple(sides), ct, jnp.swapaxes(rhs[::-1, ::-1], 2, 3))


def _windowed(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    in_pairs = strides == (1, 1) and rhs.shape[1] > 1 and rhs.shape[3] < WIDE
    return _in_pairs(padding, lhs, rhs) if in_pairs else _xla(strides, padding, lhs, rhs)


_dense = _with_weight_gradient(_dense_weight_gradient, _dense_image_gradient)(_windowed)


def _in_pairs(padding: Padding, lhs: Images, rhs: Kernel):
    """Computes two pixels side by side at once, as two groups of output channels.

    They see one more column than one pixel does, so some products are with zeros. Still it takes
    15% less time with 16 output channels, and 40% with 8 (32x32), because XLA's matrix products
    are faster with more columns.
    """
    vertical, (left, right) = padding
    width = _outputs(lhs.shape[2], rhs.shape[1], 1, (left, right))
    none = (0, 0)
    pair = [jnp.pad(rhs, (none, columns, none, none)) for columns in ((0, 1), (1, 0))]
    sides = vertical, (left, right + width % 2)
    result = _xla((1, 2), sides, lhs, jnp.concatenate(pair, axis=3))
    n, height, pairs, _ = result.shape
    return result.reshape(n, height, 2 * pairs, rhs.shape[3])[:, :, :width]


def _pointwise_weight_gradient(strides, padding, lhs, shape, ct):
    lhs = _every(lhs, strides)
    # XLA transposes the first operand. That must be lhs, which is already in memory: ct is an
    # expression, which XLA would evaluate in transposed order. With the pixels in one axis, the
    # product takes as little as a fifth of the time.
    pixels, ct = (x.reshape(-1, x.shape[-1]) for x in (lhs, ct))
    return jnp.einsum("pi,po->io", pixels, ct)[None, None]


@_with_weight_gradient(_pointwise_weight_gradient)
def _pointwise(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    return jnp.einsum("nhwi,io->nhwo", _every(lhs, strides), rhs[0, 0])


def _every(x: Images, strides: Sizes) -> Float[Array, "n h2 w2 c"]:
    """Returns x[:, ::strides[0], ::strides[1]], also where the batch size is left open."""
    return jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, *strides, 1))


def _windows(strides, padding, lhs, kernel):
    """Returns the pixels under the kernel at each position, [n, h2, w2, kh * kw * c]."""
    return jnp.concatenate(list(_shifted(lhs, kernel, strides, padding)), axis=-1)


def _by_windows_weight_gradient(strides, padding, lhs, shape, ct):
    windows = _windows(strides, padding, lhs, shape[:2])
    return jnp.einsum("nhwp,nhwo->po", windows, ct).reshape(shape)


# XLA exchanges images and kernel where the kernel has more positions. It then computes the
# convolution with plain loops, at 1 GFLOP/s, because Eigen takes no reversed kernels.
@_with_weight_gradient(_by_windows_weight_gradient)
def _by_windows(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    # In float32 or more, because the gradient for the images is a sum over windows.
    dtype = jnp.promote_types(lhs.dtype, jnp.float32)
    windows = _windows(strides, padding, lhs.astype(dtype), rhs.shape[:2])
    result = jnp.einsum("nhwp,po->nhwo", windows, rhs.reshape(-1, rhs.shape[-1]).astype(dtype))
    return result.astype(lhs.dtype)


def _by_positions(strides: Sizes, padding: Padding, lhs: Images, rhs: Kernel):
    """Computes each pixel of the result from the pixels under the kernel there."""
    dtype = jnp.promote_types(lhs.dtype, jnp.float32)
    images, rhs = lhs.astype(dtype), rhs.astype(dtype)
    axes = zip(lhs.shape[1:3], rhs.shape[:2], strides, padding, strict=True)
    rows, columns = (list(_overlaps(*axis)) for axis in axes)
    pixels = []
    for (row, kernel_row), (column, kernel_column) in itertools.product(rows, columns):
        window = images[:, row, column].reshape(lhs.shape[0], -1)
        pixels.append(window @ rhs[kernel_row, kernel_column].reshape(-1, rhs.shape[3]))
    result = jnp.stack(pixels, axis=1).reshape(lhs.shape[0], len(rows), len(columns), -1)
    return result.astype(lhs.dtype)


def _overlaps(size: int, kernel: int, step: int, padding: Sizes) -> Iterator[tuple[slice, slice]]:
    """Yields the parts of an image's and of a kernel's axis that meet, for each output."""
    for output in range(_outputs(size, kernel, step, padding)):
        at = output * step - padding[0]
        start = max(at, 0)
        stop = max(start, min(at + kernel, size))
        yield slice(start, stop), slice(start - at, stop - at)


def _shifted(lhs: Images, kernel: Sizes, strides: Sizes, padding: Padding) -> Iterator[Images]:
    """Yields, for each position in the kernel, the part of the images that it multiplies."""
    sides = ((0, 0), *padding, (0, 0))
    lhs = jax.lax.pad(lhs, jnp.zeros((), lhs.dtype), [(low, high, 0) for low, high in sides])
    spans = [
        (size - k) // step * step + 1
        for size, k, step in zip(lhs.shape[1:3], kernel, strides, strict=True)
    ]
    for i, j in itertools.product(*map(range, kernel)):
        yield lhs[:, i : i + spans[0] : strides[0], j : j + spans[1] : strides[1]]


def _depthwise_weight_gradient(strides, padding, lhs, shape, ct):
    # The sum over images is unrolled, over at most sixteen parts of the batch: XLA's reductions
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


def _max_by_slices(window_shape: Sizes, strides: Sizes, padding: Padding, x: Images):
    sides = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), sides)
    for axis, k, step in ((2, window_shape[1], strides[1]), (1, window_shape[0], strides[0])):
        span = max(0, (x.shape[axis] - k) // step * step + 1)
        parts = (jax.lax.slice_in_dim(x, i, i + span, step, axis) for i in range(k))
        x = functools.reduce(_first_larger, parts)
    return x


def _first_larger(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the larger value, or NaN if either is; for equal values the gradient goes to a."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
