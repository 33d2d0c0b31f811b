"""Images for a detector: resized, normalised and padded to one size."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from se_flax.detection.pyramid import STRIDES
from se_flax.errors import UserError
from se_flax.models.registry import IMAGENET_MEAN, IMAGENET_STD

# Pixels. The short side is from Lin et al., arXiv:1612.03144, section 5.2; the limit of the long
# side is that of Detectron and torchvision.
SHORT_SIDE, LONG_SIDE = 800, 1333


class Prepared(NamedTuple):
    """Images that a detector takes.

    Attributes:
        images: normalised, and padded with zeros below and to the right.
        sizes: height and width of each resized image, without padding, in pixels.
        original_sizes: height and width of each image before, in pixels. Detections are brought
            back to it by `rescale(boxes, sizes, original_sizes)`.
    """

    images: Float[np.ndarray, "n h w 3"]
    sizes: Float[np.ndarray, "n 2"]
    original_sizes: Float[np.ndarray, "n 2"]


def resized(
    size: tuple[int, int], short: int = SHORT_SIDE, long: int = LONG_SIDE
) -> tuple[int, int]:
    """Returns the height and width to which an image of a height and width is resized.

    The shorter side becomes `short` pixels, but the longer one at most `long`; fractions of a pixel
    are cut off, as in torchvision.
    """
    scale = min(short / min(size), long / max(size))
    height, width = (math.floor(pixels * scale) for pixels in size)
    return height, width


def resize(
    image: Float[np.ndarray, "h w c"], size: tuple[int, int]
) -> Float[np.ndarray, "h2 w2 c"]:
    """Returns an image resized bilinearly, without smoothing, as torchvision's detectors do."""
    for axis, pixels in enumerate(size):
        old = image.shape[axis]
        at = np.maximum((np.arange(pixels) + 0.5) * (old / pixels) - 0.5, 0)
        low = np.minimum(at.astype(np.int64), old - 1)
        part = (at - low).astype(np.float32)
        part = part.reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, old - 1)
        image = (1 - part) * image.take(low, axis) + part * image.take(high, axis)
    return image


def prepare(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    padded: tuple[int, int] | None = None,
    *,
    short: int = SHORT_SIDE,
    long: int = LONG_SIDE,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Prepared:
    """Resizes, normalises and pads images.

    Args:
        images: red, green and blue, from 0 to 255; heights and widths can differ.
        padded: height and width of the padded images; by default the smallest multiples of 32.
            Each padded size needs a program of its own.
        short, long: see `resized`.
        mean, std: of the normalisation to (image - mean) / std, on a scale of 0 to 1.

    Raises:
        UserError: if an image does not fit into the padded size.
    """
    original = [image.shape[:2] for image in images]
    sizes = [resized(size, short, long) for size in original]
    if padded is None:
        step = STRIDES[-1]
        padded = tuple(-(-max(pixels) // step) * step for pixels in zip(*sizes, strict=True))
    batch = np.zeros((len(images), *padded, 3), np.float32)
    for place, image, size in zip(batch, images, sizes, strict=True):
        if any(pixels > most for pixels, most in zip(size, padded, strict=True)):
            raise UserError(
                f"an image is resized to {size[0]} x {size[1]}, which does not fit into the padded "
                f"size of {padded[0]} x {padded[1]}; choose a larger one"
            )
        normal = (image / np.float32(255) - np.float32(mean)) / np.float32(std)
        place[: size[0], : size[1]] = resize(normal, size)
    return Prepared(batch, np.float32(sizes), np.float32(original))
