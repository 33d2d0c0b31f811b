"""RoIAlign: a small feature map of fixed size for each region of a larger one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Maps = Sequence[Float[Array, "n _ _ c"]]


def roi_align(
    maps: Maps,
    boxes: Float[Array, "n r 4"],
    levels: Int[Array, "n r"],
    strides: Sequence[int],
    size: int = 7,
    samples: int = 2,
) -> Float[Array, "n r size size c"]:
    """Returns a feature map of size x size bins for each box, from the level it belongs to.

    A bin is the mean over samples x samples points, regularly spaced in it, of the map interpolated
    bilinearly between its four nearest positions (He et al., Mask R-CNN, arXiv:1703.06870, section
    3). The details are those of Detectron, and of torchvision's operator with `aligned=False`:

    - position i of a map is at i * stride pixels, not in the middle of them;
    - a box is taken to be at least one position wide and high;
    - a point up to one position outside the map has the value at the border; others have 0.

    It is differentiable with respect to the maps, in reverse mode, and constant for the boxes.

    Args:
        maps: feature maps of n images, one for each level.
        boxes: boxes in the images, in pixels.
        levels: index in `maps` of the level of each box.
        strides: pixels from one position to the next on each level.
        size: number of bins in a row and in a column.
        samples: number of points in a row and in a column of a bin.
    """
    heights, widths = (np.array([x.shape[axis] for x in maps]) for axis in (1, 2))
    starts = np.cumsum([0, *(heights * widths)[:-1]])
    n, c = maps[0].shape[0], maps[0].shape[-1]
    table = jnp.concatenate([x.reshape(n, -1, c) for x in maps], axis=1)
    image = jnp.arange(n)[:, None] * table.shape[1]
    start, width = image + jnp.asarray(starts)[levels], jnp.asarray(widths)[levels]

    scale = 1 / jnp.asarray(strides, boxes.dtype)[levels]
    x1, y1, x2, y2 = jnp.moveaxis(jax.lax.stop_gradient(boxes) * scale[..., None], -1, 0)
    rows, row_weights = _nearest(_points(y1, y2, size, samples), jnp.asarray(heights)[levels])
    columns, column_weights = _nearest(_points(x1, x2, size, samples), width)
    indices, weights = [], []
    for i in range(rows.shape[-1]):
        for j in range(columns.shape[-1]):
            row, column = rows[..., :, None, i], columns[..., None, :, j]
            indices.append(start[..., None, None] + row * width[..., None, None] + column)
            weights.append(row_weights[..., :, None, i] * column_weights[..., None, :, j])
    weights = jnp.stack(weights) / samples**2
    total = _weighted_sum(table.reshape(-1, c), jnp.stack(indices), weights)
    return total.astype(table.dtype)


def _points(
    low: Float[Array, "n r"], high: Float[Array, "n r"], size: int, samples: int
) -> Float[Array, "n r size samples"]:
    """Returns the sampled coordinates of each bin along one axis."""
    bin_size = jnp.maximum(high - low, 1) / size
    of_bin = low[..., None] + np.arange(size) * bin_size[..., None]
    in_bin = (np.arange(samples) + 0.5) * bin_size[..., None] / samples
    return of_bin[..., :, None] + in_bin[..., None, :]


def _nearest(
    points: Float[Array, "n r size samples"], positions: Int[Array, "n r"]
) -> tuple[Int[Array, "n r size both"], Float[Array, "n r size both"]]:
    """Returns the positions before and after each point on an axis, and their weights."""
    last = positions[..., None, None] - 1
    inside = (points >= -1) & (points <= last + 1)
    points = jnp.clip(points, 0, last.astype(points.dtype))
    before = jnp.minimum(points.astype(jnp.int32), last)
    after = jnp.minimum(before + 1, last)
    part = points - before
    indices = jnp.concatenate([before, after], axis=-1)
    return indices, jnp.where(jnp.tile(inside, 2), jnp.concatenate([1 - part, part], axis=-1), 0)


@jax.custom_vjp
def _weighted_sum(
    table: Float[Array, "rows c"], indices: Int[Array, "k *m"], weights: Float[Array, "k *m"]
) -> Float[Array, "*m c"]:
    """Returns the sum over k of weights[k] * table[indices[k]]; weights are taken as constant."""
    terms = zip(indices, weights, strict=True)
    return sum(weight[..., None] * table[index] for index, weight in terms)


def _forward(table, indices, weights):
    return _weighted_sum(table, indices, weights), (table, indices, weights)


def _backward(operands, ct):
    """Adds up the gradient in place; otherwise JAX would sum k tables."""
    table, indices, weights = operands

    def add(k, gradient):
        return gradient.at[indices[k]].add(weights[k][..., None] * ct)

    dtype = jnp.promote_types(table.dtype, weights.dtype)
    gradient = jax.lax.fori_loop(0, len(indices), add, jnp.zeros(table.shape, dtype))
    return gradient.astype(table.dtype), None, jnp.zeros_like(weights)


_weighted_sum.defvjp(_forward, _backward)
