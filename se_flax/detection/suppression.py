"""Greedy non-maximum suppression, in forms with fixed shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from se_flax.detection.boxes import iou


def unsuppressed(
    boxes: Float[Array, "n 4"], valid: Bool[Array, "n"], threshold: float
) -> Bool[Array, "n"]:
    """Returns which boxes greedy suppression keeps.

    From the first box to the last, a box is kept unless its IoU with a box kept before it is above
    the threshold. Here all boxes are decided at once, from the last decisions about the boxes
    before them, until no decision changes. That is the greedy result: the first box is right after
    one pass, and a box is right one pass after those before it. It takes as many passes as the
    longest chain of boxes that suppress one another, usually a few (Zheng et al., Cluster-NMS,
    arXiv:2005.03572).

    Args:
        boxes: in the order of falling scores. Of equal scores, the first counts as higher.
        valid: whether there is a box, or padding, which is never kept and suppresses nothing.
        threshold: largest IoU of two boxes that are both kept.
    """
    n = len(boxes)
    before = jnp.arange(n)[:, None] < jnp.arange(n)
    suppresses = (iou(boxes, boxes) > threshold) & before & valid[:, None]

    def one_pass(state):
        kept, _ = state
        now = valid & ~jnp.any(suppresses & kept[:, None], axis=0)
        return now, jnp.any(now != kept)

    return jax.lax.while_loop(lambda state: state[1], one_pass, (valid, jnp.any(valid)))[0]


def best_boxes(
    boxes: Float[Array, "n classes 4"],
    scores: Float[Array, "n classes"],
    threshold: float,
    count: int,
) -> tuple[Int[Array, "count"], Float[Array, "count"]]:
    """Returns the highest scored boxes that greedy suppression within each class keeps.

    It picks the box with the highest score, removes those of its class that overlap, and so on.
    Unlike `unsuppressed`, it computes the IoU of few pairs, as few boxes are wanted. Of equal
    scores, the first counts as higher.

    Args:
        boxes: one box for each region and class.
        scores: their scores; -inf for boxes that must not be picked.
        threshold: largest IoU of two boxes of a class that are both kept.
        count: number of boxes to pick.

    Returns:
        The indices of the boxes in `scores.ravel()`, highest score first, and their scores,
        which are -inf once no boxes are left.
    """
    classes = scores.shape[1]
    by_class = jnp.swapaxes(boxes, 0, 1)

    def pick(scores, _):
        index = jnp.argmax(scores.ravel())
        region, label = index // classes, index % classes
        score = scores[region, label]
        of_class = by_class[label]
        removed = iou(of_class[region][None], of_class)[0] > threshold
        removed = removed.at[region].set(True)
        scores = scores.at[:, label].set(jnp.where(removed, -jnp.inf, scores[:, label]))
        return scores, (index, score)

    return jax.lax.scan(pick, scores, length=count)[1]
