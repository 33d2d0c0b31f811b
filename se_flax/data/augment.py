"""Published augmentations as pure functions of a key and an image, to run inside a jitted step.

All of it works under `jax.jit` and, with a key an image, under `jax.vmap`; only the image's shape
has to be static.

The operations of AutoAugment (Cubuk et al., 2019, arXiv:1805.09501, table 6) take and return an
image of float32 [h, w, 3] in red, green and blue, or of [h, w, 1], that holds whole values from 0
to 255. They equal Pillow's on uint8, as the paper's own code uses it: all that changes values
exactly, and all that moves pixels but for those that rounding puts astride two pixels.

`jax.vmap` turns a choice between operations into all of them for every image. A step of a policy
is therefore a few passes, each the identity unless its operation is the chosen one: a look-up
table for what depends on a pixel's value alone, a blend with another image, a warp, a box.
"""

import dataclasses
from collections.abc import Callable, Collection

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from se_flax.errors import check_choice

GREY = 128.0

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""] | float
Table = Float[Array, "256 #c"]

_VALUES = np.arange(256)[:, None]


# Operations on values, each one look-up table for each channel.


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
    """Returns span * fl(value * fl(255 / span)) - 255 * value, at [span, value].

    fl is rounding to float64. The result, some units in the last place, fits float32.
    """
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
    """Stretches the values from 0 to 255.

    Pillow truncates value * scale - lowest * scale, in float64. Where this should be a whole
    number, rounding may leave it just below, and truncation takes 1 off (white, for one, turns
    254): accelerators have no float64, so the rounding errors are looked up.
    """
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
    """Stretches each channel's values, its lowest to 0 and its highest to 255."""
    return _look_up(image, _auto_contrast_table(image))


def equalize(image: Image) -> Image:
    """Makes each channel's histogram flat."""
    return _look_up(image, _equalize_table(image))


def invert(image: Image) -> Image:
    """Takes all values from 255."""
    return _look_up(image, _invert_table(image))


def posterize(image: Image, bits: Scalar) -> Image:
    """Keeps the highest bits, 0 to 8, of each value."""
    return _look_up(image, _posterize_table(image, bits))


def solarize(image: Image, threshold: Scalar) -> Image:
    """Inverts the values from the threshold on."""
    return _look_up(image, _solarize_table(image, threshold))


def solarize_add(image: Image, addition: Scalar) -> Image:
    """Adds to the values below 128, and cuts off what leaves 0 to 255."""
    return _look_up(image, _solarize_add_table(image, addition))


def brightness(image: Image, factor: Scalar) -> Image:
    """Blends the image with black; a factor of 0 is black, 1 the image."""
    return _look_up(image, _brightness_table(image, factor))


def contrast(image: Image, factor: Scalar) -> Image:
    """Blends the image with its mean grey; a factor of 0 is grey, 1 the image."""
    return _look_up(image, _contrast_table(image, factor))


# Blends with another image.


def _rounded_product(factor: Scalar, difference: Array) -> Array:
    """Returns factor * difference, a whole number of at most 8 bits, rounded to float32.

    A compiler may fuse a product with the sum it goes into, and then not round it. Neither of
    these two has anything to round.
    """
    factor = jnp.asarray(factor, jnp.float32)
    bits = jax.lax.bitcast_convert_type(factor, jnp.uint32)
    coarse = jax.lax.bitcast_convert_type(bits & np.uint32(0xFFFFF000), jnp.float32)
    return coarse * difference + (factor - coarse) * difference


def _blend(degenerate: Array | int, image: Array, factor: Scalar) -> Array:
    """Goes `factor` of the way from one image to another, or past it, as Pillow rounds it."""
    blended = degenerate + _rounded_product(factor, image - degenerate)
    return jnp.floor(jnp.clip(blended, 0, 255))


def _luma(image: Image) -> Int[Array, "h w 1"]:
    """Returns the ITU-R 601-2 luma, as Pillow rounds it; one channel is its own."""
    values = image.astype(jnp.int32)
    if image.shape[-1] == 1:
        return values
    red, green, blue = jnp.split(values, 3, axis=-1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _grey_version(image: Image) -> Image:
    return jnp.broadcast_to(_luma(image), image.shape).astype(image.dtype)


def _smooth_version(image: Image) -> Image:
    """Weighs a pixel by 5 and its eight neighbours by 1; the border stays as it is."""
    # A sum of shifted images would be fused with all that made the image, nine times over.
    sums = jax.lax.reduce_window(image, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "SAME")
    smooth = jnp.floor((2 * (sums + 4 * image) + 13) / 26)
    return jnp.where(_box(image, 1, 1, image.shape[0] - 2, image.shape[1] - 2), smooth, image)


_DEGENERATE: dict[str, Callable[[Image], Image]] = {
    "color": _grey_version,
    "sharpness": _smooth_version,
}


def color(image: Image, factor: Scalar) -> Image:
    """Blends the image with a grey version of it; a factor of 0 is grey, 1 the image."""
    return _blend(_grey_version(image), image, factor)


def sharpness(image: Image, factor: Scalar) -> Image:
    """Blends the image with a smoothed version of it; a factor of 0 is smooth, 1 the image."""
    return _blend(_smooth_version(image), image, factor)


# Warps, each a matrix that maps a place in the result to one in the image.


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


def _warp(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    """Takes each pixel from the place that the matrix maps its centre to, in 1/65536 of a pixel."""
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
    """Moves each row to the left by `factor` of its distance from the top."""
    return _warp(image, _shear_x_matrix(image, factor))


def shear_y(image: Image, factor: Scalar) -> Image:
    """Moves each column up by `factor` of its distance from the left."""
    return _warp(image, _shear_y_matrix(image, factor))


def translate_x(image: Image, pixels: Scalar) -> Image:
    """Moves the image to the left."""
    return _warp(image, _translate_x_matrix(image, pixels))


def translate_y(image: Image, pixels: Scalar) -> Image:
    """Moves the image up."""
    return _warp(image, _translate_y_matrix(image, pixels))


def rotate(image: Image, degrees: Scalar) -> Image:
    """Turns the image counterclockwise around its centre."""
    return _warp(image, _rotate_matrix(image, degrees))


# Boxes.


def _box(
    image: Image, top: Array | int, left: Array | int, height: Array | int, width: Array | int
) -> Bool[Array, "h w 1"]:
    """Returns True inside a box, which may reach out of the image."""
    y, x = jnp.arange(image.shape[0])[:, None, None], jnp.arange(image.shape[1])[:, None]
    return (top <= y) & (y < top + height) & (left <= x) & (x < left + width)


def cutout(
    key: Key[Array, ""], image: Image, size: Int[Array, ""] | int, fill: float = 0.0
) -> Image:
    """Fills a square around a random pixel, as far as it lies in the image.

    DeVries & Taylor, 2017, arXiv:1708.04552, section 3.2, where the image is normalised and the
    fill 0. The operation of AutoAugment is the same, with a fill of 128 and, in the published
    code, half the size as its argument.
    """
    top, left = jax.random.randint(key, (2,), 0, np.array(image.shape[:2])) - size // 2
    return jnp.where(_box(image, top, left, size, size), jnp.asarray(fill, image.dtype), image)


def random_erasing(
    key: Key[Array, ""],
    image: Image,
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Image:
    """Fills a box with normal noise, with the given probability.

    Zhong et al., 2017, arXiv:1708.04896, algorithm 1: the box's share of the image's area and its
    height over its width are uniform in the ranges given. As in the authors' code, the box lies
    inside the image, and is drawn again where it does not fit, here up to 10 times. For
    normalised images.
    """
    height, width, _ = image.shape
    apply_key, area_key, aspect_key, top_key, left_key, noise_key = jax.random.split(key, 6)
    pixels = height * width * jax.random.uniform(area_key, 10, minval=area[0], maxval=area[1])
    aspects = jax.random.uniform(aspect_key, 10, minval=aspect[0], maxval=aspect[1])
    heights = jnp.round(jnp.sqrt(pixels * aspects)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(pixels / aspects)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    box_height, box_width = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, height - box_height + 1)
    left = jax.random.randint(left_key, (), 0, width - box_width + 1)
    erased = fits[first] & (jax.random.uniform(apply_key) < probability)
    box = _box(image, top, left, box_height, box_width)
    return jnp.where(erased & box, jax.random.normal(noise_key, image.shape, image.dtype), image)


# Policies.

OPERATIONS = ("identity", *_TABLES, *_DEGENERATE, *_MATRICES, "cutout")
"""The operations of a step, which knows them by their position."""


@flax.struct.dataclass
class Steps:
    """What is done to an image.

    Attributes:
        operation: int32 [n], positions in `OPERATIONS`.
        argument: float32 [n], what the operations take next to the image; half the size for
            cutout, and anything for those that take nothing.
        key: [n], for the place of cutout.
    """

    operation: Int[Array, "*n"]
    argument: Float[Array, "*n"]
    key: Key[Array, "*n"]


Choice = tuple[str, float, int]


@dataclasses.dataclass(frozen=True)
class Policy:
    """Sub-policies, one of which an image undergoes.

    Attributes:
        sub_policies: each two choices: operation, probability and level from 0 to 10.
        argument: what an operation takes at a level.
    """

    sub_policies: tuple[tuple[Choice, Choice], ...]
    argument: Callable[[str, float], float]


def _tpu_argument(
    operation: str, level: float, translate: float = 250, half_cutout: float = 100
) -> float:
    """Returns the argument at a level as EfficientNet's code for TPUs has it.

    Of 0 bits it keeps 1, as TensorFlow's shifts do, and of more than 8 all.
    """
    share = level / 10
    match operation:
        case "shear_x" | "shear_y":
            return share * 0.3
        case "translate_x" | "translate_y":
            return share * translate
        case "rotate":
            return share * 30
        case "posterize":
            return min(max(int(share * 4), 1), 8)
        case "solarize":
            return int(share * 256)
        case "solarize_add":
            return int(share * 110)
        case "brightness" | "contrast" | "color" | "sharpness":
            return share * 1.8 + 0.1
        case "cutout":
            return int(share * half_cutout)
    return 0


def _research_argument(operation: str, level: float) -> float:
    """Returns the argument at a level as AutoAugment's code for CIFAR has it."""
    match operation:
        case "posterize":
            return 4 - int(level * 4 / 10)
        case "solarize":
            return 256 - int(level * 256 / 10)
    return _tpu_argument(operation, level, translate=10)


_IMAGENET = (
    (("equalize", 0.8, 1), ("shear_y", 0.8, 4)),
    (("color", 0.4, 9), ("equalize", 0.6, 3)),
    (("color", 0.4, 1), ("rotate", 0.6, 8)),
    (("solarize", 0.8, 3), ("equalize", 0.4, 7)),
    (("solarize", 0.4, 2), ("solarize", 0.6, 2)),
    (("color", 0.2, 0), ("equalize", 0.8, 8)),
    (("equalize", 0.4, 8), ("solarize_add", 0.8, 3)),
    (("shear_x", 0.2, 9), ("rotate", 0.6, 8)),
    (("color", 0.6, 1), ("equalize", 1.0, 2)),
    (("invert", 0.4, 9), ("rotate", 0.6, 0)),
    (("equalize", 1.0, 9), ("shear_y", 0.6, 3)),
    (("color", 0.4, 7), ("equalize", 0.6, 0)),
    (("posterize", 0.4, 6), ("auto_contrast", 0.4, 7)),
    (("solarize", 0.6, 8), ("color", 0.6, 9)),
    (("solarize", 0.2, 4), ("rotate", 0.8, 9)),
    (("rotate", 1.0, 7), ("translate_y", 0.8, 9)),
    (("shear_x", 0.0, 0), ("solarize", 0.8, 4)),
    (("shear_y", 0.8, 0), ("color", 0.6, 4)),
    (("color", 1.0, 0), ("rotate", 0.6, 2)),
    (("equalize", 0.8, 4), ("equalize", 0.0, 8)),
    (("equalize", 1.0, 4), ("auto_contrast", 0.6, 2)),
    (("shear_y", 0.4, 7), ("solarize_add", 0.6, 7)),
    (("posterize", 0.8, 2), ("solarize", 0.6, 10)),
    (("solarize", 0.6, 8), ("equalize", 0.6, 1)),
    (("color", 0.8, 6), ("rotate", 0.4, 5)),
)

_CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
)

_SVHN = (
    (("shear_x", 0.9, 4), ("invert", 0.2, 0)),
    (("shear_y", 0.9, 8), ("invert", 0.7, 0)),
    (("equalize", 0.6, 0), ("solarize", 0.6, 6)),
    (("invert", 0.9, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
    (("shear_x", 0.9, 4), ("auto_contrast", 0.8, 0)),
    (("shear_y", 0.9, 8), ("invert", 0.4, 0)),
    (("shear_y", 0.9, 5), ("solarize", 0.2, 6)),
    (("invert", 0.9, 0), ("auto_contrast", 0.8, 0)),
    (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
    (("shear_x", 0.9, 4), ("solarize", 0.3, 3)),
    (("shear_y", 0.8, 8), ("invert", 0.7, 0)),
    (("equalize", 0.9, 0), ("translate_y", 0.6, 6)),
    (("invert", 0.9, 0), ("equalize", 0.6, 0)),
    (("contrast", 0.3, 3), ("rotate", 0.8, 4)),
    (("invert", 0.8, 0), ("translate_y", 0.0, 2)),
    (("shear_y", 0.7, 6), ("solarize", 0.4, 8)),
    (("invert", 0.6, 0), ("rotate", 0.8, 4)),
    (("shear_y", 0.3, 7), ("translate_x", 0.9, 3)),
    (("shear_x", 0.1, 6), ("invert", 0.6, 0)),
    (("solarize", 0.7, 2), ("translate_y", 0.6, 7)),
    (("shear_y", 0.8, 4), ("invert", 0.8, 0)),
    (("shear_x", 0.7, 9), ("translate_y", 0.8, 3)),
    (("shear_y", 0.8, 5), ("auto_contrast", 0.7, 0)),
    (("shear_x", 0.7, 2), ("invert", 0.1, 0)),
)

POLICIES = {
    "autoaugment_imagenet": Policy(_IMAGENET, _tpu_argument),
    "autoaugment_cifar10": Policy(_CIFAR10, _research_argument),
    "autoaugment_svhn": Policy(_SVHN, _research_argument),
}
"""The published policies of AutoAugment, each with the levels of the code it was published with.

For ImageNet the policy v0 of EfficientNet's code (tensorflow/tpu, models/official/efficientnet/
autoaugment.py), which is not the paper's table 8. It moves images by up to 250 pixels: at level 9,
one of 224 is moved out of sight. For CIFAR and SVHN the 25 sub-policies of the paper's tables 7 and
9, with the levels of its code (tensorflow/models, research/autoaugment), which moves images of
32x32 by up to 10 pixels, and at higher levels posterises and solarises more, not less. An
operation that has no level is given 0 there.

Some things are alike for all policies where these codes differ, from each other or from Pillow.
What a warp leaves empty is grey of 128, as in EfficientNet's code; the paper's leaves it black for
operations on values that follow, and in the end the data's mean. Colour, contrast and shear are
Pillow's; EfficientNet's code takes the number of pixels / 256 for the mean that contrast needs,
truncates where Pillow rounds luma, and shears around the first pixel's centre, not its corner.
"""

_RAND_AUGMENT = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "color"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("cutout", "solarize_add"),
)


def _steps(key: Key[Array, ""], operation: Int[Array, " n"], argument: Float[Array, " n"]) -> Steps:
    """Makes the arguments of warps negative half of the time, and adds keys."""
    sign_key, cutout_key = jax.random.split(key)
    is_warp = jnp.asarray([name in _MATRICES for name in OPERATIONS])[operation]
    negative = is_warp & jax.random.bernoulli(sign_key, shape=operation.shape)
    argument = jnp.where(negative, -argument, argument)
    return Steps(operation, argument, jax.random.split(cutout_key, operation.shape))


def draw_auto_augment(key: Key[Array, ""], policy: str) -> Steps:
    """Draws the two steps of one sub-policy; one that is not taken is the identity.

    Raises:
        UserError: there is no such policy.
    """
    check_choice("augmentation policy", policy, POLICIES)
    sub_policies, argument_at = POLICIES[policy].sub_policies, POLICIES[policy].argument
    choices = [choice for sub_policy in sub_policies for choice in sub_policy]
    operations = np.array([OPERATIONS.index(name) for name, _, _ in choices])
    probabilities = np.float32([probability for _, probability, _ in choices])
    arguments = np.float32([argument_at(name, level) for name, _, level in choices])

    chosen_key, taken_key, steps_key = jax.random.split(key, 3)
    chosen = 2 * jax.random.randint(chosen_key, (), 0, len(sub_policies)) + jnp.arange(2)
    taken = jax.random.uniform(taken_key, (2,)) < jnp.asarray(probabilities)[chosen]
    operation = jnp.where(taken, jnp.asarray(operations)[chosen], 0)
    return _steps(steps_key, operation, jnp.asarray(arguments)[chosen])


def draw_rand_augment(key: Key[Array, ""], num_layers: int, magnitude: float) -> Steps:
    """Draws `num_layers` of RandAugment's operations, all at the level `magnitude`."""
    operations = np.array([OPERATIONS.index(name) for name in _RAND_AUGMENT])
    arguments = np.float32(
        [_tpu_argument(name, magnitude, translate=100, half_cutout=40) for name in _RAND_AUGMENT]
    )
    chosen_key, steps_key = jax.random.split(key)
    chosen = jax.random.randint(chosen_key, (num_layers,), 0, len(operations))
    return _steps(steps_key, jnp.asarray(operations)[chosen], jnp.asarray(arguments)[chosen])


def apply_step(image: Image, step: Steps, possible: Collection[str] = OPERATIONS) -> Image:
    """Applies one operation.

    Args:
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        step: of shape [].
        possible: the operations that this may be; there is nothing to compute for others.
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


def auto_augment(key: Key[Array, ""], image: Image, policy: str) -> Image:
    """Applies one sub-policy of a policy, chosen at random.

    Cubuk et al., 2019, arXiv:1805.09501, section 3: each of its two operations is applied with its
    probability, and warps go either way.

    Args:
        key: for all choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        policy: one of `POLICIES`, which tells their levels.

    Raises:
        UserError: there is no such policy.
    """
    steps = draw_auto_augment(key, policy)
    for i, choices in enumerate(zip(*POLICIES[policy].sub_policies, strict=True)):
        possible = [operation for operation, _, _ in choices]
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), possible)
    return image


def rand_augment(
    key: Key[Array, ""], image: Image, num_layers: int = 2, magnitude: float = 9
) -> Image:
    """Applies operations chosen at random, all at one level.

    Cubuk et al., 2019, arXiv:1909.13719, section 3, with the 16 operations and the levels of
    EfficientNet's code: warps go either way, translations reach 100 pixels at level 10, and
    cutout 40 to each side. Levels beyond 10 are used there and mean more of the same; solarising
    then leaves all values as they are, and so does posterising from level 20 on.

    Args:
        key: for all choices.
        image: float32 [h, w, 1 or 3] of whole values from 0 to 255.
        num_layers: operations applied, N in the paper.
        magnitude: their level, M in the paper.
    """
    steps = draw_rand_augment(key, num_layers, magnitude)
    for i in range(num_layers):
        image = apply_step(image, jax.tree.map(lambda x, i=i: x[i], steps), _RAND_AUGMENT)
    return image


# Mixtures of two images.

Mixed = tuple[Float[Array, "b h w c"], Float[Array, " b"]]


def _mixup_weight(
    key: Key[Array, ""], _image: Image, alpha: float
) -> tuple[Float[Array, "1 1 1"], Float[Array, ""]]:
    """Returns an image's weight at each of its pixels, and overall."""
    share = jax.random.beta(key, alpha, alpha)
    return share[None, None, None], share


def _cutmix_weight(
    key: Key[Array, ""], image: Image, alpha: float
) -> tuple[Float[Array, "h w 1"], Float[Array, ""]]:
    """Returns an image's weight at each of its pixels, and overall."""
    share_key, centre_key = jax.random.split(key)
    size = np.array(image.shape[:2])
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
    half = (size * side).astype(jnp.int32) // 2
    start = jax.random.randint(centre_key, (2,), 0, size) - half
    weight = 1.0 - _box(image, *start, *(2 * half))
    return weight, weight.mean()


def _mixed_pairs(
    keys: Key[Array, " pairs"],
    images: Float[Array, "b h w c"],
    weigh: Callable[[Key[Array, ""], Image], tuple[Array, Array]],
) -> Mixed:
    pairs = images.reshape(len(keys), 2, *images.shape[1:])
    weights, shares = jax.vmap(weigh, (0, None))(keys, images[0])
    weights = weights[:, None].astype(images.dtype)
    mixed = weights * pairs + (1 - weights) * pairs[:, ::-1]
    return mixed.reshape(images.shape), jnp.repeat(shares, 2)


def mixup(keys: Key[Array, " pairs"], images: Float[Array, "b h w c"], alpha: float) -> Mixed:
    """Adds each image's neighbour to it, as `mix` does, by one weight for all pixels.

    Zhang et al., 2018, arXiv:1710.09412, section 2: the weight is drawn from Beta(alpha, alpha).
    """
    return _mixed_pairs(keys, images, lambda key, image: _mixup_weight(key, image, alpha))


def cutmix(keys: Key[Array, " pairs"], images: Float[Array, "b h w c"], alpha: float) -> Mixed:
    """Puts a box of each image's neighbour into it, as `mix` does.

    Yun et al., 2019, arXiv:1905.04899, section 3.1 and algorithm A1: the box has the image's shape
    and 1 - Beta(alpha, alpha) of its area; it lies around a random pixel and is cut off at the
    image's border. What is left of the image is its share.
    """
    return _mixed_pairs(keys, images, lambda key, image: _cutmix_weight(key, image, alpha))


def mix(
    keys: Key[Array, " pairs"],
    images: Float[Array, "b h w c"],
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> Mixed:
    """Mixes each image with its neighbour: 0 with 1, 2 with 3, and so on.

    Both images of a pair are mixed alike, each its own share of itself. What happens to a pair
    depends on its key alone, and so not on how a batch is shared among devices. The papers mix an
    image with a random one of the batch, which a neighbour in a shuffled stream is too.

    Args:
        keys: [b / 2], one a pair.
        images: [b, h, w, c], normalised or not; b is even.
        mixup_alpha: alpha of `mixup`; with 0 there is none.
        cutmix_alpha: alpha of `cutmix`; with 0 there is none. If neither is 0, each pair is mixed
            by one or the other, as likely.

    Returns:
        The mixed images, and float32 [b]: the weight of an image's own label. The rest is the
        weight of its neighbour's.
    """
    if not mixup_alpha and not cutmix_alpha:
        return images, jnp.ones(len(images))
    if not cutmix_alpha:
        return mixup(keys, images, mixup_alpha)
    if not mixup_alpha:
        return cutmix(keys, images, cutmix_alpha)

    def weigh(key: Key[Array, ""], image: Image) -> tuple[Array, Array]:
        choice_key, weight_key = jax.random.split(key)
        is_cutmix = jax.random.bernoulli(choice_key)
        cut = _cutmix_weight(weight_key, image, cutmix_alpha)
        added = _mixup_weight(weight_key, image, mixup_alpha)
        return jax.tree.map(lambda a, b: jnp.where(is_cutmix, a, b), cut, added)

    return _mixed_pairs(keys, images, weigh)
