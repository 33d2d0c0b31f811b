"""The feature pyramid, and the regions pooled from it (Lin et al., arXiv:1612.03144)."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from se_flax.detection.boxes import area
from se_flax.detection.conv_norm import ConvNorm
from se_flax.detection.roi_align import Maps, roi_align

STRIDES = (4, 8, 16, 32)  # pixels from one position to the next on P2 to P5
BINS = 7  # in a row and in a column of a region


class FeaturePyramid(nn.Module):
    """Feature maps of equal width at five resolutions, P2 to P6 (section 3 and footnote 1).

    From the last stage up, each map is a 1x1 convolution of a stage's output (`lateral{i}`) plus
    the coarser map doubled in size, and a 3x3 convolution of it (`output{i}`) is the level. P6 is
    every second position of P5.

    Attributes:
        width: number of channels of all levels.
        norm: whether batch norms, with their running statistics, follow the convolutions, instead
            of biases.
        dtype: computation type.
    """

    width: int = 256
    norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, stages: Sequence[Float[Array, "n _ _ _"]]
    ) -> list[Float[Array, "n _ _ width"]]:
        """Returns the levels, finest first.

        Args:
            stages: outputs of the trunk's stages, finest first, each with half the height and width
                of the one before.
        """
        conv = functools.partial(ConvNorm, self.width, norm=self.norm, dtype=self.dtype)
        levels, top = [], None
        for i, stage in reversed(list(enumerate(stages, start=1))):
            x = conv(size=1, name=f"lateral{i}")(stage)
            top = x if top is None else x + _doubled(top)
            levels.insert(0, conv(size=3, name=f"output{i}")(top))
        x = levels[-1]
        return [*levels, jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, 2, 2, 1))]


def _doubled(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Repeats each position twice along both axes."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def levels_of(boxes: Float[Array, "*batch 4"], levels: int = len(STRIDES)) -> Int[Array, "*batch"]:
    """Returns the level that each box is pooled from: 0 for P2, 1 for P3 and so on.

    Boxes of about 224 x 224 pixels, the size of ImageNet's images, are pooled from P4, and those
    half or twice as large from the level below or above (section 4.2, equation 1):

        floor(4 + log2(sqrt(area) / 224) + 1e-6) - 2

    The last term is torchvision's; Detectron adds it inside the logarithm.

    Args:
        boxes: boxes in pixels.
        levels: number of levels that boxes are pooled from.
    """
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(area(boxes)) / 224) + 1e-6) - 2
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def pool_regions(
    levels: Maps, boxes: Float[Array, "n r 4"], strides: Sequence[int] = STRIDES, size: int = BINS
) -> Float[Array, "n r size size c"]:
    """Returns a feature map of size x size bins for each box, by `roi_align` with 2 x 2 samples.

    Args:
        levels: P2 to P5 of n images; further levels are not used.
        boxes: boxes in the images, in pixels. An empty box is pooled like one of 1 x 1.
        strides: pixels from one position to the next on each level.
        size: number of bins in a row and in a column.
    """
    at = levels_of(boxes, len(strides))
    return roi_align(levels[: len(strides)], boxes, at, strides, size)
