"""The box head: classes and boxes of regions (Girshick, Fast R-CNN, arXiv:1504.08083)."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from se_flax.detection.boxes import HEAD_WEIGHTS, clip, decode, is_larger
from se_flax.detection.conv_norm import ConvNorm, xavier
from se_flax.detection.proposals import Proposals
from se_flax.detection.suppression import best_boxes
from se_flax.layers.initializers import he_normal

_LEAST_SIDE = 1e-2  # pixels; detections with a shorter side are removed


class Detections(NamedTuple):
    """Objects found in images, a fixed number of places, most probable first.

    Attributes:
        boxes: in the images, in pixels; 0 where not valid.
        scores: probability of the class; 0 where not valid.
        labels: class, from 1; 0 where not valid.
        valid: whether there is a detection for the place.
    """

    boxes: Float[Array, "n places 4"]
    scores: Float[Array, "n places"]
    labels: Int[Array, "n places"]
    valid: Bool[Array, "n places"]


class BoxHead(nn.Module):
    """Class logits and box codes of regions, from their pooled feature maps.

    With the default fields this is the head of Lin et al., arXiv:1612.03144, section 4.2: two
    hidden layers of 1024 units.

    Attributes:
        num_classes: number of classes, including the background, which is class 0.
        convs: number of 3x3 convolutions with batch norm and ReLU before the hidden layers.
        layers: number of hidden layers.
        width: number of units in a hidden layer.
        dtype: computation type; outputs are float32.
    """

    num_classes: int
    convs: int = 0
    layers: int = 2
    width: int = 1024
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, regions: Float[Array, "n r size size c"]
    ) -> tuple[Float[Array, "n r classes"], Float[Array, "n r classes 4"]]:
        """Returns class logits, and codes for `decode` with `HEAD_WEIGHTS` for each class."""
        n, r, *shape = regions.shape
        x = regions.reshape(n * r, *shape)
        for i in range(1, self.convs + 1):
            unit = ConvNorm(
                shape[-1], norm=True, kernel_init=he_normal, dtype=self.dtype, name=f"unit{i}"
            )
            x = jax.nn.relu(unit(x))
        x = x.reshape(n, r, -1)
        for i in range(1, self.layers + 1):
            dense = nn.Dense(self.width, kernel_init=xavier, dtype=self.dtype, name=f"fc{i}")
            x = jax.nn.relu(dense(x))
        last = functools.partial(nn.Dense, dtype=jnp.promote_types(self.dtype, jnp.float32))
        normal = nn.initializers.normal
        logits = last(self.num_classes, kernel_init=normal(0.01), name="classifier")(x)
        codes = last(4 * self.num_classes, kernel_init=normal(0.001), name="box_classifier")(x)
        return logits, codes.reshape(n, r, self.num_classes, 4)


def detections_of(
    logits: Float[Array, "n r classes"],
    codes: Float[Array, "n r classes 4"],
    proposals: Proposals,
    sizes: Float[Array, "n 2"],
    score_threshold: float = 0.05,
    threshold: float = 0.5,
    count: int = 100,
) -> Detections:
    """Returns the most probable objects, after suppression within each class.

    Args:
        logits, codes: outputs of `BoxHead` for the proposals.
        proposals: the regions.
        sizes: height and width of each image without padding, in pixels.
        score_threshold: probability that a detection has to exceed.
        threshold: largest IoU of two detections of a class.
        count: number of detections.
    """
    boxes = decode(codes[:, :, 1:], proposals.boxes[:, :, None], HEAD_WEIGHTS)
    boxes = clip(boxes, sizes)
    scores = jax.nn.softmax(logits)[..., 1:]
    possible = (scores > score_threshold) & is_larger(boxes, _LEAST_SIDE)
    scores = jnp.where(possible & proposals.valid[..., None], scores, -jnp.inf)
    pick = jax.vmap(functools.partial(best_boxes, threshold=threshold, count=count))
    index, scores = pick(boxes, scores)
    valid = scores > -jnp.inf
    picked = jnp.take_along_axis(boxes.reshape(len(boxes), -1, 4), index[..., None], axis=1)
    labels = index % boxes.shape[2] + 1
    return Detections(
        jnp.where(valid[..., None], picked, 0),
        jnp.where(valid, scores, 0),
        jnp.where(valid, labels, 0),
        valid,
    )
