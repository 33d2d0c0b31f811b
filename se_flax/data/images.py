"""Decoding and cropping images on the host."""

import dataclasses
import io
import math
import warnings
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from se_flax.errors import UserError
from se_flax.models import Preparation

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# OpenCV does not turn all formats upright.
_AS_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_TRIES = 10


# TIFF (also BigTIFF) and GIF. OpenCV clips real numbers in TIFF, and mixes the images of a GIF.
_BY_PILLOW = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8")


def decode(image: bytes | np.ndarray, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image as RGB.

    Grey levels and palettes become RGB, and transparency is dropped, as by Pillow's
    `convert("RGB")` (which torchvision's `ImageFolder` calls). Values of 16 bits are divided by
    256, and real numbers scaled as by `eight_bits`. Of an animation, the first image is taken. A
    colour profile (ICC) is ignored.

    Args:
        image: encoded image, or an array of uint8 [h, w, 1 or 3].
        upright: whether to turn an encoded image as its EXIF orientation says.

    Raises:
        UserError: if the image cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        return np.broadcast_to(image, (*image.shape[:2], 3))
    if not image:
        raise UserError("it is empty")
    if image.startswith(_BY_PILLOW):
        return np.asarray(eight_bits(pillow_image(image, upright)).convert("RGB"))
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), _AS_RGB)
    if decoded is None:
        raise UserError("it is not an image or is damaged")
    return _turned(decoded, _orientation(image)) if upright else decoded


def pillow_image(content: bytes, upright: bool) -> Image.Image:
    """Returns an image that Pillow has read, in the mode of its file; for errors, see `decode`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and of odd metadata
            with Image.open(io.BytesIO(content)) as image:
                if upright:
                    ImageOps.exif_transpose(image, in_place=True)
                image.load()
                return image
    except Image.UnidentifiedImageError as error:
        raise UserError(
            "it is not an image, is damaged, or has a format that is not known (convert it to JPEG "
            "or PNG)"
        ) from error
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise UserError(str(error).partition("\n")[0] or "it is damaged") from error


def eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image with grey levels of 8 bits if it has more, otherwise the image.

    Whole numbers of 16 bits, and of 32 bits up to 65535, are divided by 256 and rounded down. Real
    numbers are taken for shares of white if all are from 0 to 1, otherwise for levels of 8 bits if
    all are up to 255, and otherwise of 16 bits if all are up to 65535.

    Raises:
        UserError: if it has other values: no value is then known to be white.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(float)
    least, most = levels.min(), levels.max()
    if not (least >= 0 and most <= 65535):
        raise UserError(
            f"its grey levels run from {least:g} to {most:g}, and no value is known to be white; "
            "save them from 0 to 1, or in 8 or 16 bits"
        )
    if image.mode != "F" or most > 255:
        levels = np.floor(levels / 256)
    elif most <= 1:
        levels = np.round(255 * levels)
    return Image.fromarray(np.round(levels).astype(np.uint8))


def _orientation(content: bytes) -> int:
    """Returns the EXIF orientation of an image, 1 (upright) if it states none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return image.getexif().get(0x0112, 1)
    except Exception:  # OpenCV reads some images that Pillow does not
        return 1


def _turned(
    image: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "turned_h turned_w 3"]:
    """Returns an image that is stored with an EXIF orientation (EXIF 2.32, 4.6.5), upright."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


@runtime_checkable
class Crop(Protocol):
    """A function that turns an image of any size into one of a fixed size.

    Attributes:
        draws: number of random numbers that a call needs.
    """

    draws: ClassVar[int]

    @property
    def size(self) -> int:
        """Height and width of the result, in pixels."""

    @property
    def channels(self) -> int:
        """Channels of the result: 3, or 1 for grey levels."""

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        draws: Sequence[float],
        out: UInt8[np.ndarray, "size size c"] | None = None,
    ) -> UInt8[np.ndarray, "size size c"]:
        """Returns the crop.

        Args:
            image: RGB image, uint8 [h, w, 3].
            draws: `self.draws` random numbers, uniform in [0, 1).
            out: array to write the crop to and return, uint8 [size, size, channels]; by default
                a new one.
        """


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Resizes an image to a short side of size / crop_pct and crops the centre.

    Equals torchvision's `Resize` and `CenterCrop` on Pillow images. Pillow's interpolation is
    antialiased: it uses all pixels when it shrinks an image.

    Attributes:
        size: height and width of the result, in pixels.
        crop_pct: fraction of the short side that the crop keeps, at most 1.
        interpolation: "bilinear" or "bicubic".
        channels: 3, or 1 for the luma of the crop (ITU-R BT.601).
    """

    size: int
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    channels: int = 3
    draws: ClassVar[int] = 0

    @classmethod
    def of(cls, preparation: Preparation, channels: int = 3) -> "CenterCrop":
        """Returns the crop of a preparation."""
        return cls(preparation.size, preparation.crop_pct, preparation.interpolation, channels)

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        draws: Sequence[float] = (),
        out: UInt8[np.ndarray, "size size c"] | None = None,
    ) -> UInt8[np.ndarray, "size size c"]:
        """Returns the crop; see `Crop`."""
        height, width = image.shape[:2]
        short, shorter = int(self.size / self.crop_pct), min(height, width)
        resized = image
        if shorter != short:
            shape = (width * short // shorter, height * short // shorter)
            resized = Image.fromarray(np.ascontiguousarray(image))
            resized = np.asarray(resized.resize(shape, _RESAMPLING[self.interpolation]))
        top, left = (round((length - self.size) / 2) for length in resized.shape[:2])
        cropped = resized[top : top + self.size, left : left + self.size]
        if self.channels == 1:
            cropped = cv2.cvtColor(cropped, cv2.COLOR_RGB2GRAY)[..., None]
        if out is None:
            return cropped
        out[:] = cropped
        return out


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Crops a box of random area, aspect ratio and position, and resizes it.

    Szegedy et al., arXiv:1409.4842, section 6. The box's fraction of the image's area and the
    logarithm of its aspect ratio are uniform. The first of ten draws that fits into the image is
    used. If none does, the crop is the largest central box with an allowed aspect ratio.

    Attributes:
        size: height and width of the result, in pixels.
        area: range of the box's area as a fraction of the image's.
        aspect: range of the box's width divided by its height.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    draws: ClassVar[int] = 4 * _TRIES

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return 3

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        draws: Sequence[float],
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Returns the crop; see `Crop`."""
        top, left, height, width = self.box(image.shape[0], image.shape[1], draws)
        part = image[top : top + height, left : left + width]
        # When shrinking, INTER_AREA averages, so that no pixels are skipped.
        shrinks = min(height, width) > self.size
        return cv2.resize(
            part,
            (self.size, self.size),
            dst=out,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )

    def box(self, height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
        """Returns top, left, height and width of the box, in pixels."""
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        for i in range(0, self.draws, 4):
            share, shape, down, right = draws[i : i + 4]
            part = height * width * (self.area[0] + share * (self.area[1] - self.area[0]))
            aspect = math.exp(low + shape * (high - low))
            w, h = round((part * aspect) ** 0.5), round((part / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
        w, h = width, height
        if width < self.aspect[0] * height:
            h = max(1, round(width / self.aspect[0]))
        elif width > self.aspect[1] * height:
            w = max(1, round(height * self.aspect[1]))
        return (height - h) // 2, (width - w) // 2, h, w
