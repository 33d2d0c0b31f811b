"""The sizes to which images of a detector are resized and padded."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from se_flax.errors import UserError

STRIDE = 32  # of the coarsest feature map of the trunk; sizes of padded images are multiples of it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """To which size an image is resized, and to which it is then padded.

    The short side becomes `short` pixels, but the long one at most `long`, by default as in
    Detectron and torchvision. Images are padded to one of a few sizes, because a program is
    compiled for each. With the default fields these are 800 x 1088, 800 x 1344, and both upright.
    Of their pixels, 8% are padding for photographs of COCO; with `short` and `long` alone, it would
    be 16%.

    Attributes:
        short, long: pixels of the short side, and most pixels of the long side.
        aspects: shapes (long side divided by short side) for which there are padded sizes, in
            addition to long / short.
    """

    short: int = 800
    long: int = 1333
    aspects: tuple[float, ...] = (4 / 3,)

    def __post_init__(self):
        if not 1 <= self.short <= self.long:
            raise UserError(
                f"the short side ({self.short}) must have at least 1 pixel and at most as many as "
                f"the long side ({self.long})"
            )
        if any(aspect < 1 for aspect in self.aspects):
            raise UserError(
                f"the aspects {self.aspects} must be at least 1, as they are of the long side to "
                "the short side"
            )

    @functools.cached_property
    def padded(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each padded size, pixels, from the smallest area to the largest."""
        longs = [min(self.long, round(self.short * aspect)) for aspect in self.aspects]
        sides = {(_rounded_up(self.short), _rounded_up(each)) for each in (*longs, self.long)}
        return tuple(sorted(sides | {side[::-1] for side in sides}, key=lambda x: (x[0] * x[1], x)))

    def resized(self, sizes: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 2"]:
        """Returns the sizes of images after resizing, as torchvision computes them.

        Fractions of a pixel are cut off, but at least one pixel is left.

        Args:
            sizes: height and width of each image, pixels.
        """
        scale = np.minimum(self.short / sizes.min(axis=1), self.long / sizes.max(axis=1))
        return np.maximum(1, np.floor(sizes * scale[:, None])).astype(np.int32)

    def groups(self, sizes: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
        """Returns for each image the index in `padded` of the smallest size that it fits into.

        Args:
            sizes: height and width of each image before resizing, pixels.
        """
        fits = (self.resized(sizes)[:, None] <= np.array(self.padded)).all(axis=-1)
        return np.argmax(fits, axis=1).astype(np.int32)


def _rounded_up(pixels: int) -> int:
    return -(-pixels // STRIDE) * STRIDE
