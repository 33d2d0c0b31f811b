"""The image operations of AutoAugment, and steps that apply one of them.

Each operation (Cubuk et al., 2019, arXiv:1805.09501, table 6) takes and returns a float32 image
of whole values from 0 to 255, either RGB [h, w, 3] or [h, w, 1]. The reference is Pillow on uint8
images, which the paper's own code uses. Operations on values equal Pillow's exactly. So do those
that move pixels, except where float32 rounds a position to the other of two adjacent pixels.

Under `jax.vmap`, a choice between operations computes all of them for every image. `apply_step`
therefore makes a few passes, each the identity unless the chosen operation needs it: a look-up
table for operations on single values, a blend with another image, a warp, and a box.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Real

from se_flax.data.augment.erasing import Image, box_mask, cutout

GREY = 128.0
"""The value of pixels that a warp leaves empty or cutout fills."""

Scalar = Float[Array, ""] | float
Table = Real[Array, "256 #c"]

_VALUES = np.arange(256)[:, None]


# Operations on values: each is a look-up table per channel.


def _bins(image: Image) -> Int[Array, "h w c"]:
    """Returns 256 * channel + value."""
    return image.astype(jnp.int32) + 256 * jnp.arange(image.shape[-1])


def _look_up(image: Image, table: Table) -> Image:
    table = jnp.broadcast_to(table, (256, image.shape[-1])).astype(image.dtype)
    return table.T.ravel()[_bins(image)]


def _histogram(image: Image) -> Int[Array, "256 c"]:
    counts = jnp.zeros(256 * image.shape[-1], jnp.int32).at[_bins(image)].add(1)
    return counts.reshape(-1, 256).T


def _contrast_rounding() -> np.ndarray:
    """Returns float64's rounding error in value * (255 / span), times span, at [span, value]."""
    # The product is split into parts short enough that multiplying them by span is exact. The
    # error is a few units in the last place, so it fits float32.
    span = np.maximum(np.arange(256.0), 1)[:, None]
    value = np.arange(256.0)
    scaled = value * (255 / span)
    whole = np.floor(scaled)
    coarse = np.floor((scaled - whole) * 2**24) / 2**24
    fine = scaled - whole - coarse
    return ((whole * span - 255 * value + coarse * span) + fine * span).astype(np.float32)


_CONTRAST_ROUNDING = _contrast_rounding()
_SPACING_BELOW = np.spacing(np.nextafter(np.arange(256.0), 0)).astype(np.float32)


def _auto_contrast_table(image: Image, _: Scalar = 0) -> Table:
    # Pillow truncates value * scale - lowest * scale, computed in float64. Where the exact result
    # is a whole number, the rounded one may be just below it, and truncation takes off 1: white
    # may become 254. Accelerators have no float64, so the rounding errors come from a table.
    occurs = _histogram(image) > 0
    lowest = jnp.where(occurs, _VALUES, 255).min(0)
    span = jnp.where(occurs, _VALUES, 0).max(0) - lowest
    divisor = jnp.maximum(span, 1)
    stretched = 255 * (_VALUES - lowest)
    quotient = jnp.clip(stretched // divisor, 0, 255)
    rounding = jnp.asarray(_CONTRAST_ROUNDING)[divisor].T
    error = rounding - jnp.take_along_axis(rounding, lowest[None], axis=0)
    below = error < -divisor * jnp.asarray(_SPACING_BELOW)[quotient] / 2
    short = below & (stretched % divisor == 0)
    return jnp.where(span > 0, quotient - short, _VALUES)


def _equalize_table(image: Image, _: Scalar = 0) -> Table:
    histogram = _histogram(image)
    below = jnp.cumsum(histogram, axis=0) - histogram
    below_highest = jnp.where(histogram > 0, below, 0).max(0)
    step = below_highest // 255
    equalized = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(equalized, 255), _VALUES)


def _invert_table(_image: Image, _: Scalar = 0) -> Table:
    return jnp.asarray(255 - _VALUES)


def _posterize_table(_image: Image, bits: Scalar) -> Table:
    shift = 8 - jnp.asarray(bits, jnp.int32)
    return (_VALUES >> shift) << shift


def _solarize_table(_image: Image, threshold: Scalar) -> Table:
    return jnp.where(threshold > _VALUES, _VALUES, 255 - _VALUES)


def _solarize_add_table(_image: Image, addition: Scalar) -> Table:
    return jnp.where(_VALUES < 128, jnp.clip(_VALUES + addition, 0, 255), _VALUES)


def _brightness_table(_image: Image, factor: Scalar) -> Table:
    return _blend(0, _VALUES, factor)


def _contrast_table(image: Image, factor: Scalar) -> Table:
    luma = _luma(image)
    mean = (2 * luma.sum() + luma.size) // (2 * luma.size)
    return _blend(mean, _VALUES, factor)


_TABLES: dict[str, Callable[[Image, Scalar], Table]] = {
    "auto_contrast": _auto_contrast_table,
    "equalize": _equalize_table,
    "invert": _invert_table,
    "posterize": _posterize_table,
    "solarize": _solarize_table,
    "solarize_add": _solarize_add_table,
    "brightness": _brightness_table,
    "contrast": _contrast_table,
}


def auto_contrast(image: Image) -> Image:
    """Stretches the values of each channel: the lowest becomes 0 and the highest 255."""
    return _look_up(image, _auto_contrast_table(image))


def equalize(image: Image) -> Image:
    """Flattens the histogram of each channel."""
    return _look_up(image, _equalize_table(image))


def invert(image: Image) -> Image:
    """Replaces each value by 255 minus the value."""
    return _look_up(image, _invert_table(image))


def posterize(image: Image, bits: Scalar) -> Image:
    """Keeps the highest `bits` bits of each value, 0 to 8 of them."""
    return _look_up(image, _posterize_table(image, bits))


def solarize(image: Image, threshold: Scalar) -> Image:
    """Inverts all values at or above the threshold."""
    return _look_up(image, _solarize_table(image, threshold))


def solarize_add(image: Image, addition: Scalar) -> Image:
    """Adds `addition` to all values below 128 and clips the results to 0 to 255."""
    return _look_up(image, _solarize_add_table(image, addition))


def brightness(image: Image, factor: Scalar) -> Image:
    """Blends the image with black: factor 0 gives black, factor 1 the image."""
    return _look_up(image, _brightness_table(image, factor))


def contrast(image: Image, factor: Scalar) -> Image:
    """Blends the image with its mean grey: factor 0 gives grey, factor 1 the image."""
    return _look_up(image, _contrast_table(image, factor))


# Blends: each mixes the image with a degenerate version of it.


def _rounded_product(factor: Scalar, difference: Array | np.ndarray) -> Array:
    """Returns factor * difference, rounded to float32, for a difference from -255 to 255."""
    # A compiler may fuse a product with the sum that uses it, and then does not round it. Both
    # products below are exact, so fusing them changes nothing.
    factor = jnp.asarray(factor, jnp.float32)
    bits = jax.lax.bitcast_convert_type(factor, jnp.uint32)
    coarse = jax.lax.bitcast_convert_type(bits & np.uint32(0xFFFFF000), jnp.float32)
    return coarse * difference + (factor - coarse) * difference


def _blend(degenerate: Array | int, image: Array | np.ndarray, factor: Scalar) -> Array:
    """Returns degenerate + factor * (image - degenerate), clipped and rounded as by Pillow."""
    blended = degenerate + _rounded_product(factor, image - degenerate)
    return jnp.floor(jnp.clip(blended, 0, 255))


def _luma(image: Image) -> Int[Array, "h w 1"]:
    """Returns the ITU-R 601-2 luma, rounded as by Pillow, or the only channel of a grey image."""
    values = image.astype(jnp.int32)
    if image.shape[-1] == 1:
        return values
    red, green, blue = jnp.split(values, 3, axis=-1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _grey_version(image: Image) -> Image:
    return jnp.broadcast_to(_luma(image), image.shape).astype(image.dtype)


def _smooth_version(image: Image) -> Image:
    """Averages each pixel (weight 5) with its eight neighbours (1); the border is unchanged."""
    # In a sum of nine shifted images, XLA would compute the image itself nine times.
    sums = jax.lax.reduce_window(image, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "SAME")
    smooth = jnp.floor((2 * (sums + 4 * image) + 13) / 26)
    return jnp.where(box_mask(image, 1, 1, image.shape[0] - 2, image.shape[1] - 2), smooth, image)


_DEGENERATE: dict[str, Callable[[Image], Image]] = {
    "color": _grey_version,
    "sharpness": _smooth_version,
}


def color(image: Image, factor: Scalar) -> Image:
    """Blends the image with its grey version: factor 0 gives grey, factor 1 the image."""
    return _blend(_grey_version(image), image, factor)


def sharpness(image: Image, factor: Scalar) -> Image:
    """Blends the image with a smoothed version: factor 0 gives that, factor 1 the image."""
    return _blend(_smooth_version(image), image, factor)


# Warps: each is a matrix that maps positions in the result to positions in the image.


def _shear_x_matrix(_image: Image, factor: Scalar) -> Float[Array, "2 3"]:
    return jnp.asarray([[1, factor, 0], [0, 1, 0]], jnp.float32)


def _shear_y_matrix(_image: Image, factor: Scalar) -> Float[Array, "2 3"]:
    return jnp.asarray([[1, 0, 0], [factor, 1, 0]], jnp.float32)


def _translate_x_matrix(_image: Image, pixels: Scalar) -> Float[Array, "2 3"]:
    return jnp.asarray([[1, 0, pixels], [0, 1, 0]], jnp.float32)


def _translate_y_matrix(_image: Image, pixels: Scalar) -> Float[Array, "2 3"]:
    return jnp.asarray([[1, 0, 0], [0, 1, pixels]], jnp.float32)


def _rotate_matrix(image: Image, degrees: Scalar) -> Float[Array, "2 3"]:
    y, x = image.shape[0] / 2, image.shape[1] / 2
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return jnp.asarray([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


_MATRICES: dict[str, Callable[[Image, Scalar], Float[Array, "2 3"]]] = {
    "shear_x": _shear_x_matrix,
    "shear_y": _shear_y_matrix,
    "translate_x": _translate_x_matrix,
    "translate_y": _translate_y_matrix,
    "rotate": _rotate_matrix,
}

WARPS = tuple(_MATRICES)
"""The operations that move pixels."""


def _warp(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    """Takes each pixel from where the matrix maps its centre, in units of 1/65536 pixel."""
    height, width, channels = image.shape
    start = matrix[:, 2] + matrix[:, 0] * 0.5 + matrix[:, 1] * 0.5
    fixed = jnp.floor(jnp.stack([*matrix[:, :2].T, start]) * 65536 + 0.5).astype(jnp.int32)
    along_x, along_y, start = fixed
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    column, row = jnp.moveaxis((start + along_x * x + along_y * y) >> 16, -1, 0)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    return jnp.where(inside[..., None], image.reshape(-1, channels)[index], GREY)


def shear_x(image: Image, factor: Scalar) -> Image:
    """Moves each row left by `factor` times its distance from the top."""
    return _warp(image, _shear_x_matrix(image, factor))


def shear_y(image: Image, factor: Scalar) -> Image:
    """Moves each column up by `factor` times its distance from the left."""
    return _warp(image, _shear_y_matrix(image, factor))


def translate_x(image: Image, pixels: Scalar) -> Image:
    """Moves the image left by `pixels`."""
    return _warp(image, _translate_x_matrix(image, pixels))


def translate_y(image: Image, pixels: Scalar) -> Image:
    """Moves the image up by `pixels`."""
    return _warp(image, _translate_y_matrix(image, pixels))


def rotate(image: Image, degrees: Scalar) -> Image:
    """Rotates the image counterclockwise around its centre."""
    return _warp(image, _rotate_matrix(image, degrees))


# Steps.

OPERATIONS = ("identity", *_TABLES, *_DEGENERATE, *_MATRICES, "cutout")
"""The names of all operations; a step holds an index into them."""


class Steps(NamedTuple):
    """The n operations that are applied to an image, in order.

    Attributes:
        operation: int32 [n], indices into `OPERATIONS`.
        argument: float32 [n], the second argument of each operation. For cutout it is half the
            side in pixels. Operations without a second argument ignore it.
        key: [n], random keys; only cutout uses them.
    """

    operation: Int[Array, "*n"]
    argument: Float[Array, "*n"]
    key: Key[Array, "*n"]


def apply_step(image: Image, step: Steps, possible: Collection[str] = OPERATIONS) -> Image:
    """Applies one operation to an image.

    Args:
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        step: a single step, of shape [].
        possible: the operations that the step may hold. No others are computed.
    """

    def is_chosen(name: str) -> Bool[Array, ""]:
        return step.operation == OPERATIONS.index(name)

    if tables := [name for name in _TABLES if name in possible]:
        table = _VALUES
        for name in tables:
            table = jnp.where(is_chosen(name), _TABLES[name](image, step.argument), table)
        image = _look_up(image, table)
    if blends := [name for name in _DEGENERATE if name in possible]:
        degenerate, factor = image, 1.0
        for name in blends:
            degenerate = jnp.where(is_chosen(name), _DEGENERATE[name](image), degenerate)
            factor = jnp.where(is_chosen(name), step.argument, factor)
        image = _blend(degenerate, image, factor)
    if warps := [name for name in _MATRICES if name in possible]:
        matrix = np.eye(2, 3, dtype=np.float32)
        for name in warps:
            matrix = jnp.where(is_chosen(name), _MATRICES[name](image, step.argument), matrix)
        image = _warp(image, matrix)
    if "cutout" in possible:
        size = jnp.where(is_chosen("cutout"), 2 * step.argument, 0).astype(jnp.int32)
        image = cutout(step.key, image, size, GREY)
    return image
