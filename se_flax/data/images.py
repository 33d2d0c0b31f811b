"""Images as published evaluations see them: decoded, resized, and their centre cut out."""

import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode(image: bytes | np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an encoded image, or one of uint8 [h, w, 1 or 3], as red, green and blue."""
    if isinstance(image, np.ndarray):
        return np.broadcast_to(image, (*image.shape[:2], 3))
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Resizes an image to a short side of size / crop and cuts out the centre of it.

    As torchvision's `Resize` and `CenterCrop` do, with Pillow, whose interpolation looks at all
    pixels when it makes an image smaller.

    Attributes:
        size: height and width of the result.
        crop: the part of the short side that is left, at most 1.
        interpolation: "bilinear" or "bicubic".
    """

    size: int
    crop: float = 0.875
    interpolation: str = "bilinear"

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """Returns the crop."""
        height, width = image.shape[:2]
        short = int(self.size / self.crop)
        scale = short / min(height, width)
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(
            (short, int(scale * height)) if width <= height else (int(scale * width), short),
            _RESAMPLING[self.interpolation],
        )
        left, top = (round((length - self.size) / 2) for length in resized.size)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))
