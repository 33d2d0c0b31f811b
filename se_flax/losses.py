"""The losses that a network is trained with, and how they weigh classes."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from se_flax.data.preprocessing import Batch
from se_flax.parallel import AXIS


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of an image, in nats, as a function of its logits and its labels.

    Attributes:
        name: "softmax" is the cross entropy of the softmax. "bce" is the mean, over the classes, of
            the binary cross entropy of the sigmoid (torch.nn.BCEWithLogitsLoss); the target of an
            image of one class is then 1 for its class and 0 for all others, as in Wightman et al.,
            arXiv:2110.00476, section 3.
        label_smoothing: share a of the target that is spread. For images of one class, it is spread
            over all C classes: (1 - a) y + a / C. For images of several classes, whose labels are
            decided one by one, it is spread over yes and no: (1 - a) y + a / 2.
        class_weights: weight of each class, or () for none. The loss of a batch is the weighted
            mean sum(w_i l_i) / sum(w_i), over all devices and parts. For images of one class, w_i
            is the weight of the image's class, and of a mixed image the mean of those of its two
            classes, weighted by their shares; the terms of a smoothed target weigh as their
            classes. Without mixing, that is torch.nn.CrossEntropyLoss(weight, label_smoothing).
            For images of several classes, the weight is that of each class's binary cross entropy.
        target_threshold: if above 0, the target of a class is 1 if its share of a mixed image is
            above this, and 0 otherwise, as in timm's `BinaryCrossEntropy`.
    """

    name: str = "softmax"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    target_threshold: float = 0.0

    def targets(self, batch: Batch, num_classes: int) -> Float[Array, "b classes"]:
        """Returns what the network should say: mixed where images are, and smoothed."""
        targets = _targets(batch, num_classes)
        if self.target_threshold:
            return (targets > self.target_threshold).astype(jnp.float32)
        if batch.labels.ndim == 2:
            return (1 - self.label_smoothing) * targets + self.label_smoothing / 2
        return optax.smooth_labels(targets, self.label_smoothing)

    def of(
        self, logits: Float[Array, "b classes"], targets: Float[Array, "b classes"], batch: Batch
    ) -> Float[Array, " b"]:
        """Returns the loss of each image; with class weights, their mean is the weighted mean.

        Args:
            logits: of the images.
            targets: of `targets`.
            batch: the images, of `weighted`.
        """
        weights = jnp.asarray(self.class_weights or 1.0)
        if self.name == "softmax":
            targets = weights * targets if self.class_weights else targets
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            each = optax.sigmoid_binary_cross_entropy(logits, targets)
            losses = jnp.mean(each, axis=-1)
            if self.class_weights and batch.labels.ndim == 2:
                losses = each @ weights / jnp.sum(weights)
            elif self.class_weights:
                losses *= _targets(batch, logits.shape[-1]) @ weights
        return losses if batch.scale is None else losses * batch.scale

    def weighted(self, batch: Batch) -> Batch:
        """Returns a device's share of a batch with what makes a mean over it a weighted mean."""
        if not self.class_weights or batch.labels.ndim == 2:
            return batch
        weights = _targets(batch, len(self.class_weights)) @ jnp.asarray(self.class_weights)
        scale = 1 / jax.lax.pmean(jnp.mean(weights), AXIS)
        return batch.replace(scale=jnp.full(len(batch.labels), scale))


def _targets(batch: Batch, num_classes: int) -> Float[Array, "b num_classes"]:
    targets = _wanted(batch.labels, num_classes)
    if batch.lam is None:
        return targets
    lam = batch.lam[:, None]
    return lam * targets + (1 - lam) * _wanted(batch.mix_labels, num_classes)


def _wanted(labels: Array | None, num_classes: int) -> Float[Array, "b num_classes"]:
    """Returns 1 for the classes of each image, and 0 for the others."""
    labels = jnp.asarray(labels)
    if labels.ndim == 2:
        return labels.astype(jnp.float32)
    return jax.nn.one_hot(labels, num_classes)
