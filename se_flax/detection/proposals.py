"""The region proposal network.

It is that of Ren et al., arXiv:1506.01497, section 3, on a pyramid (Lin et al., arXiv:1612.03144,
section 4.1).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from se_flax.detection.boxes import clip, decode, is_larger
from se_flax.detection.conv_norm import ConvNorm
from se_flax.detection.roi_align import Maps
from se_flax.detection.suppression import unsuppressed
from se_flax.layers.cpu import Conv

_LEAST_SIDE = 1e-3  # pixels; proposals with a shorter side are removed


class Proposals(NamedTuple):
    """Regions that may contain an object, a fixed number of places, best first.

    Attributes:
        boxes: in the images, in pixels.
        scores: probability of an object; -1 where not valid.
        valid: whether there is a proposal for the place.
    """

    boxes: Float[Array, "n places 4"]
    scores: Float[Array, "n places"]
    valid: Bool[Array, "n places"]


class ProposalHead(nn.Module):
    """Scores and codes of all anchors; the same layers for each level of the pyramid.

    Attributes:
        anchors: number of anchors at a position.
        convs: number of 3x3 convolutions, each followed by ReLU.
        dtype: computation type.
    """

    anchors: int = 3
    convs: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, levels: Maps
    ) -> tuple[list[Float[Array, "n _"]], list[Float[Array, "n _ 4"]]]:
        """Returns logits of "is an object", and codes for `decode`, of each level's anchors.

        Args:
            levels: feature maps; anchors are in the order of `level_anchors`.
        """
        init = nn.initializers.normal(0.01)
        width = levels[0].shape[-1]
        conv = functools.partial(ConvNorm, width, kernel_init=init, dtype=self.dtype)
        convs = [conv(name=f"unit{i}") for i in range(1, self.convs + 1)]
        last = functools.partial(Conv, kernel_size=(1, 1), kernel_init=init, dtype=self.dtype)
        objectness = last(self.anchors, name="objectness")
        box_codes = last(4 * self.anchors, name="box_codes")
        logits, codes = [], []
        for x in levels:
            for unit in convs:
                x = jax.nn.relu(unit(x))
            n = len(x)
            logits.append(_full(objectness(x)).reshape(n, -1))
            codes.append(_full(box_codes(x)).reshape(n, -1, 4))
        return logits, codes


def propose(
    logits: Sequence[Float[Array, "n _"]],
    codes: Sequence[Float[Array, "n _ 4"]],
    anchors: Sequence[Float[Array, "_ 4"]],
    sizes: Float[Array, "n 2"],
    before: int,
    after: int,
    threshold: float = 0.7,
) -> Proposals:
    """Returns the best boxes of all levels, after suppression within each level.

    No gradient goes through the proposals.

    Args:
        logits, codes: outputs of `ProposalHead`.
        anchors: of each level.
        sizes: height and width of each image without padding, in pixels.
        before: number of boxes of each level with the highest scores that are considered.
        after: number of boxes returned.
        threshold: largest IoU of two proposals of a level.
    """
    suppress = jax.vmap(functools.partial(unsuppressed, threshold=threshold))
    boxes, scores = [], []
    for level in zip(logits, codes, anchors, strict=True):
        of_level, codes_of_level = jax.lax.stop_gradient(level[:2])
        best, index = jax.lax.top_k(of_level, min(before, of_level.shape[1]))
        picked = jnp.take_along_axis(codes_of_level, index[..., None], axis=1)
        found = clip(decode(picked, jnp.asarray(level[2], picked.dtype)[index]), sizes)
        kept = suppress(found, is_larger(found, _LEAST_SIDE))
        boxes.append(found)
        scores.append(jnp.where(kept, jax.nn.sigmoid(best), -1.0))
    boxes, scores = jnp.concatenate(boxes, axis=1), jnp.concatenate(scores, axis=1)
    scores, index = jax.lax.top_k(scores, min(after, scores.shape[1]))
    boxes = jnp.take_along_axis(boxes, index[..., None], axis=1)
    return Proposals(boxes, scores, scores >= 0)


def _full(x: Array) -> Array:
    """Returns x in float32 or better."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
