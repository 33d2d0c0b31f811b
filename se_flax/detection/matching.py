"""Training targets: which true box each anchor or proposal stands for, and which are sampled."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from se_flax.detection.boxes import iou

BACKGROUND, IGNORED = 0, -1  # labels of a box that stands for no object


class Truth(NamedTuple):
    """The true boxes of images, padded to a fixed number.

    Attributes:
        boxes: [n, g, 4]; see `se_flax.detection.boxes`. Rows that are not valid can have any value.
        labels: class of each box, from 1; 0 is the background.
        valid: whether there is a box, or padding. An image can have none.
    """

    boxes: Float[Array, "n g 4"]
    labels: Int[Array, "n g"]
    valid: Bool[Array, "n g"]


class Targets(NamedTuple):
    """What boxes stand for.

    Attributes:
        labels: class from 1, `BACKGROUND` or `IGNORED`.
        boxes: the true box of each object; for other labels the nearest true box, if any.
    """

    labels: Int[Array, "n m"]
    boxes: Float[Array, "n m 4"]


class Sample(NamedTuple):
    """Boxes that were drawn from those of an image, a fixed number of places.

    Attributes:
        indices: of the boxes drawn, objects first.
        valid: whether a box was drawn for the place.
    """

    indices: Int[Array, "n count"]
    valid: Bool[Array, "n count"]


def assign(
    boxes: Float[Array, "n m 4"],
    valid: Bool[Array, "n m"],
    truth: Truth,
    high: float,
    low: float,
    low_quality: bool = False,
) -> Targets:
    """Finds the true box that each box stands for.

    A box whose largest IoU with a true box is at least `high` has its label; below `low` it is
    background; otherwise it is ignored (Ren et al., arXiv:1506.01497, section 3.1.2). This equals
    torchvision's `Matcher`.

    Args:
        boxes: anchors or proposals of n images.
        valid: whether there is a box, or padding, which is ignored.
        truth: the true boxes.
        high, low: limits of the IoU.
        low_quality: whether the boxes with the largest IoU of all with some true box, ties
            included, are also matched to their own nearest true box, however small that IoU is.
            So every true box has a match.
    """

    def one_image(boxes, valid, truth):
        overlaps = jnp.where(truth.valid[:, None], iou(truth.boxes, boxes), -1.0)
        # The barrier makes both readers of a value see the same bits.
        overlaps = jax.lax.optimization_barrier(jnp.where(valid[None], overlaps, -1.0))
        nearest = jnp.argmax(overlaps, axis=0)
        largest = jnp.max(overlaps, axis=0)
        is_object = largest >= high
        if low_quality:
            best = jnp.max(overlaps, axis=1, keepdims=True)
            is_object |= jnp.any((overlaps == best) & truth.valid[:, None], axis=0)
        labels = jnp.where(largest < low, BACKGROUND, IGNORED)
        labels = jnp.where(is_object, truth.labels[nearest], labels)
        return Targets(jnp.where(valid, labels, IGNORED), truth.boxes[nearest])

    return jax.vmap(one_image)(boxes, valid, truth)


def sample(key: Key[Array, ""], labels: Int[Array, "n m"], count: int, fraction: float) -> Sample:
    """Draws boxes at random, with at most a given fraction of objects.

    Each image has min(objects, count * fraction) objects, and background for the rest if there is
    enough of it, like torchvision's `BalancedPositiveNegativeSampler` (the paper's mini-batch).

    Args:
        key: of the draw.
        labels: see `Targets`.
        count: number of boxes to draw from each image.
        fraction: largest fraction of objects.
    """

    def drawn(key, eligible, places):
        places = min(places, len(eligible))
        order = jnp.where(eligible, jax.random.uniform(key, eligible.shape), -1.0)
        return jax.lax.top_k(order, places)[1], jnp.arange(places) < jnp.sum(eligible)

    def one_image(key, labels):
        of_objects, of_background = jax.random.split(key)
        objects, is_object = drawn(of_objects, labels > BACKGROUND, int(count * fraction))
        others, is_other = drawn(of_background, labels == BACKGROUND, count)
        is_other &= jnp.arange(len(others)) < count - jnp.sum(is_object)
        indices = jnp.concatenate([objects, others])
        valid = jnp.concatenate([is_object, is_other])
        order = jnp.argsort(~valid, stable=True)[:count]
        return Sample(indices[order], valid[order])

    return jax.vmap(one_image)(jax.random.split(key, len(labels)), labels)


def picked(x: Array, drawn: Sample) -> Array:
    """Returns the rows of x, [n, m, *any], that were drawn, [n, count, *any]."""
    indices = drawn.indices.reshape(*drawn.indices.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, indices, axis=1)
