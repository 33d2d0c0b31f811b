"""Images on the host: decoding, and the crops of published training and evaluation."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from se_flax.errors import UserError

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# As the evaluations of published weights do, a camera's note of how it was held is ignored.
_AS_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_TRIES = 10


def decode(image: bytes | np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an encoded image, or one of uint8 [h, w, 1 or 3], as red, green and blue.

    Raises:
        UserError: if it cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        return np.broadcast_to(image, (*image.shape[:2], 3))
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), _AS_RGB) if image else None
    if decoded is None:
        raise UserError("it is no image, or damaged" if image else "it is empty")
    return decoded


@runtime_checkable
class Crop(Protocol):
    """Makes an image of a fixed size of any.

    Attributes:
        draws: how many random numbers it takes.
    """

    draws: ClassVar[int]

    @property
    def size(self) -> int:
        """Height and width of the result."""

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        draws: Sequence[float],
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Returns the crop, in `out` if that is given.

        Args:
            image: the image.
            draws: `self.draws` numbers, uniform between 0 and 1.
            out: where to write the crop.
        """


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Resizes an image to a short side of size / crop_pct and cuts out the centre of it.

    As torchvision's `Resize` and `CenterCrop` do, with Pillow, whose interpolation looks at all
    pixels when it makes an image smaller.

    Attributes:
        size: height and width of the result.
        crop_pct: share of the short side that is left, at most 1.
        interpolation: "bilinear" or "bicubic".
    """

    size: int
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    draws: ClassVar[int] = 0

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        draws: Sequence[float] = (),
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
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
        if out is None:
            return cropped
        out[:] = cropped
        return out


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a part of random area and shape, and resizes it.

    Szegedy et al., arXiv:1409.4842, section 6: the part's share of the area is uniform, the
    logarithm of its width over its height too. Where ten such parts do not fit into the image,
    the largest central part of an allowed shape is taken.

    Attributes:
        size: height and width of the result.
        area: least and largest share of the image's area.
        aspect: least and largest width over height.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    draws: ClassVar[int] = 4 * _TRIES

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        draws: Sequence[float],
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Returns the crop; see `Crop`."""
        top, left, height, width = self.box(image.shape[0], image.shape[1], draws)
        part = image[top : top + height, left : left + width]
        # Averages where it becomes smaller, so that no pixels are skipped.
        shrinks = min(height, width) > self.size
        return cv2.resize(
            part,
            (self.size, self.size),
            dst=out,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )

    def box(self, height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
        """Returns top, left, height and width of the part, in pixels."""
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
