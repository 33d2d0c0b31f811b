"""The four losses of Faster R-CNN (Ren et al., arXiv:1506.01497, section 3.1.2).

Each is a mean over all boxes that were drawn from all images, objects and background alike, as in
torchvision. Its smooth L1 loss has the same limit of 1/9 for both stages, where Detectron has 1/9
for proposals and 1 for the box head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from se_flax.detection.matching import BACKGROUND

SMOOTH_L1_BETA = 1 / 9


def smooth_l1(
    difference: Float[Array, "*shape"], beta: float = SMOOTH_L1_BETA
) -> Float[Array, "*shape"]:
    """Returns d^2 / (2 beta) where |d| < beta, and |d| - beta / 2 elsewhere (Fast R-CNN, eq. 3)."""
    size = jnp.abs(difference)
    return jnp.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def proposal_losses(
    logits: Float[Array, "n m"],
    codes: Float[Array, "n m 4"],
    labels: Int[Array, "n m"],
    targets: Float[Array, "n m 4"],
    valid: Bool[Array, "n m"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the losses of the region proposal network: of objectness and of boxes.

    Args:
        logits, codes: outputs of `ProposalHead` for the anchors that were drawn.
        labels: of the anchors; see `Targets`.
        targets: codes of the true boxes; not used where the label is no object.
        valid: whether there is an anchor, or padding.
    """
    is_object = labels > BACKGROUND
    # The cross-entropy of sigmoid(logits), in a form without overflow.
    entropy = jnp.maximum(logits, 0) - logits * is_object + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return _mean(entropy, valid), _box_loss(codes, targets, is_object, valid)


def head_losses(
    logits: Float[Array, "n m classes"],
    codes: Float[Array, "n m classes 4"],
    labels: Int[Array, "n m"],
    targets: Float[Array, "n m 4"],
    valid: Bool[Array, "n m"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the losses of the box head: of classes and of boxes.

    Args:
        logits, codes: outputs of `BoxHead` for the regions that were drawn.
        labels: of the regions; see `Targets`.
        targets: codes of the true boxes; not used where the label is no object.
        valid: whether there is a region, or padding.
    """
    classes = jnp.maximum(labels, BACKGROUND)
    log_p = jax.nn.log_softmax(logits)
    entropy = -jnp.take_along_axis(log_p, classes[..., None], axis=-1)[..., 0]
    codes = jnp.take_along_axis(codes, classes[..., None, None], axis=2)[:, :, 0]
    is_object = labels > BACKGROUND
    return _mean(entropy, valid), _box_loss(codes, targets, is_object, valid)


def _box_loss(
    codes: Float[Array, "n m 4"],
    targets: Float[Array, "n m 4"],
    is_object: Bool[Array, "n m"],
    valid: Bool[Array, "n m"],
) -> Float[Array, ""]:
    """Returns the smooth L1 loss of the objects, divided by the number of all boxes."""
    counted = is_object & valid
    # Targets elsewhere may not be finite, which would make the gradient NaN.
    targets = jnp.where(counted[..., None], targets, 0)
    per_box = jnp.sum(smooth_l1(codes - targets), axis=-1)
    return _mean(jnp.where(counted, per_box, 0), valid)


def _mean(x: Float[Array, "n m"], valid: Bool[Array, "n m"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(valid, x, 0)) / jnp.maximum(jnp.sum(valid), 1)
