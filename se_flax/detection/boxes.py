"""Boxes: overlaps, coding and clipping.

A box is [x1, y1, x2, y2] in pixels of its image, with x to the right and y downwards. It spans
x2 - x1 by y2 - y1 pixels. The arithmetic is torchvision's (`torchvision.ops.boxes` and
`torchvision.models.detection._utils`), which counts no extra pixel as Detectron does.
"""

import math

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

Boxes = Float[Array, "*batch 4"]
Weights = tuple[float, float, float, float]

# Largest logarithm of a change of width or height: a stride of 16 pixels becomes 1000 pixels.
MAX_LOG_SCALE = math.log(1000 / 16)

UNIT_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
HEAD_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)


def area(boxes: Boxes) -> Float[Array, "*batch"]:
    """Returns the area of each box in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[Array, "*batch n 4"], b: Float[Array, "*batch m 4"]) -> Float[Array, "*batch n m"]:
    """Returns the intersection over union of each box of a with each of b; 0 if both are empty."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    corner = jnp.maximum(a[..., :2], b[..., :2])
    sides = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - corner, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def encode(boxes: Boxes, anchors: Boxes, weights: Weights = UNIT_WEIGHTS) -> Boxes:
    """Returns what a network should predict to change anchors into boxes.

    For an anchor with centre (xa, ya), width wa and height ha, a box with (x, y), w and h is

        (x - xa) / wa,  (y - ya) / ha,  log(w / wa),  log(h / ha)

    each times its weight (Girshick et al., R-CNN, arXiv:1311.2524, appendix C; the weights are
    those of Detectron, which make the four numbers similarly large).

    Args:
        boxes, anchors: boxes with width and height above 0; values for others are not finite.
        weights: of the four numbers.
    """
    (x, y, w, h), (xa, ya, wa, ha) = _centre_and_size(boxes), _centre_and_size(anchors)
    codes = ((x - xa) / wa, (y - ya) / ha, jnp.log(w / wa), jnp.log(h / ha))
    return jnp.stack([wt * code for wt, code in zip(weights, codes, strict=True)], axis=-1)


def decode(
    codes: Float[Array, "... 4"], anchors: Float[Array, "... 4"], weights: Weights = UNIT_WEIGHTS
) -> Float[Array, "... 4"]:
    """Returns the boxes that predictions for anchors stand for; the inverse of `encode`.

    Widths and heights grow at most by the factor 1000 / 16 (`MAX_LOG_SCALE`).

    Args:
        codes: predictions; their batch axes are broadcast with those of the anchors.
        anchors: boxes.
        weights: of the four numbers, as in `encode`.
    """
    xa, ya, wa, ha = _centre_and_size(anchors)
    dx, dy, dw, dh = (codes[..., i] / weight for i, weight in enumerate(weights))
    x, y = dx * wa + xa, dy * ha + ya
    half_w = 0.5 * (jnp.exp(jnp.minimum(dw, MAX_LOG_SCALE)) * wa)
    half_h = 0.5 * (jnp.exp(jnp.minimum(dh, MAX_LOG_SCALE)) * ha)
    return jnp.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)


def clip(boxes: Float[Array, "n *m 4"], sizes: Float[Array, "n 2"]) -> Float[Array, "n *m 4"]:
    """Returns the boxes of each image cut off at its borders.

    Args:
        boxes: boxes of n images.
        sizes: height and width of each image in pixels.
    """
    most = jnp.stack([sizes[:, 1], sizes[:, 0]] * 2, axis=-1)
    most = most.reshape(len(boxes), *[1] * (boxes.ndim - 2), 4).astype(boxes.dtype)
    return jnp.clip(boxes, 0, most)


def is_larger(boxes: Boxes, least: float) -> Bool[Array, "*batch"]:
    """Returns whether both sides of each box have at least `least` pixels."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return jnp.all(sides >= least, axis=-1)


def rescale(
    boxes: Float[ArrayLike, "n *m 4"],
    sizes: Float[ArrayLike, "n 2"],
    new_sizes: Float[ArrayLike, "n 2"],
) -> Float[Array, "n *m 4"]:
    """Returns the boxes of images that were resized.

    Args:
        boxes: boxes in n images.
        sizes, new_sizes: height and width of each image before and after, in pixels.
    """
    ratios = jnp.asarray(new_sizes) / sizes
    factors = jnp.stack([ratios[:, 1], ratios[:, 0]] * 2, axis=-1)
    return boxes * factors.reshape(len(boxes), *[1] * (boxes.ndim - 2), 4)


def _centre_and_size(boxes: Float[Array, "... 4"]) -> tuple[Array, Array, Array, Array]:
    """Returns the x and y of the centre, the width and the height."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height
