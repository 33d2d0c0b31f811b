"""Metrics of images of several classes each: mean average precision, and accuracy of the labels."""

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from se_flax.metrics import Metrics, Sums


@flax.struct.dataclass
class LabelMetrics(Sums):
    """The sums over images of several classes each.

    Attributes:
        label_accuracy: sum of the share of an image's labels that are right. A label, yes or no for
            each class, is right if the class's probability is above 0.5 where it is yes, and not
            above it where it is no.
        loss, count, skipped, first_skipped: see `Sums`.
    """

    shares: ClassVar[tuple[str, ...]] = ("label_accuracy",)
    loss: Float[Array, ""]
    label_accuracy: Float[Array, ""]
    count: Float[Array, ""]
    skipped: Float[Array, ""]
    first_skipped: Float[Array, "3"]

    @classmethod
    def of(
        cls, logits: Float[Array, "b c"], labels: UInt8[Array, "b c"], loss: Float[Array, " b"],
        mask: Bool[Array, " b"],
    ) -> "LabelMetrics":  # fmt: skip
        """Sums over the images whose mask is True; `loss` is the loss of each image."""
        right = jnp.mean((logits > 0) == (labels > 0), axis=-1, dtype=jnp.float32)
        return cls(
            loss=jnp.sum(jnp.where(mask, loss, 0.0)),
            label_accuracy=jnp.sum(jnp.where(mask, right, 0.0)),
            count=jnp.sum(mask, dtype=jnp.float32),
            skipped=jnp.zeros(()),
            first_skipped=jnp.zeros(3),
        )


@flax.struct.dataclass
class Scored:
    """The metrics of an evaluation; mAP needs the logits of all its images.

    Attributes:
        sums: the metrics that are sums.
        logits, labels, mask: one array for each batch: [b, c], [b, c] and [b].
    """

    sums: LabelMetrics
    logits: tuple[Any, ...]
    labels: tuple[Any, ...]
    mask: tuple[Any, ...]

    @classmethod
    def of(
        cls, logits: Float[Array, "b c"], labels: UInt8[Array, "b c"], loss: Float[Array, " b"],
        mask: Bool[Array, " b"], axis: str,
    ) -> "Scored":  # fmt: skip
        """Returns the metrics of a batch whose shares are on the devices of a mapped axis."""
        sums = jax.lax.psum(LabelMetrics.of(logits, labels, loss, mask), axis)
        logits, labels, mask = jax.lax.all_gather((logits, labels, mask), axis, tiled=True)
        return cls(sums, (logits,), (labels,), (mask,))

    def __add__(self, other: "Scored") -> "Scored":
        mask = self.mask + other.mask
        return Scored(
            self.sums + other.sums, self.logits + other.logits, self.labels + other.labels, mask
        )

    def on_host(self) -> "Scored":
        """Waits for the arrays, and returns them as NumPy arrays."""
        return jax.device_get(self).replace(sums=self.sums.on_host())

    def means(self) -> dict[str, float]:
        """Returns the loss in nats, and mAP and the accuracy of the labels in percent."""
        host = self.on_host()
        mask, logits, labels = (
            np.concatenate(each) for each in (host.mask, host.logits, host.labels)
        )
        precisions = average_precisions(logits[mask], labels[mask])
        known = precisions[~np.isnan(precisions)]
        mean = float(100 * known.mean()) if len(known) else float("nan")
        means = host.sums.means()
        return {"loss": means.pop("loss"), "mAP": mean, **means}


def average_precisions(
    scores: Float[np.ndarray, "n c"], labels: UInt8[np.ndarray, "n c"]
) -> Float[np.ndarray, " c"]:
    """Returns the average precision of each class, from 0 to 1; NaN for a class that no image has.

    It is the sum of (R_k - R_(k-1)) P_k over the distinct scores, from the highest to the lowest,
    where P_k and R_k are the precision and the recall of taking all images with at least the k-th
    score for members of the class. It is not interpolated; scikit-learn's
    `average_precision_score` is the same.

    Args:
        scores: of each image and class; the higher, the likelier.
        labels: 1 if the image has the class, and 0 if not.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=0)
    hits = np.cumsum(np.take_along_axis(labels, order, axis=0) > 0, axis=0)
    taken = np.arange(1, len(scores) + 1)
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        ends = np.append(np.flatnonzero(np.diff(ranked[:, k])), len(scores) - 1)
        found = hits[ends, k] if len(scores) else np.zeros(1)
        if found[-1]:
            gained = np.diff(found, prepend=0) / found[-1]
            result[k] = np.sum(gained * found / taken[ends])
    return result


def kind_of_metrics(multi_label: bool) -> type[Sums]:
    """Returns the class of a run's training metrics."""
    return LabelMetrics if multi_label else Metrics


def chosen_by(multi_label: bool) -> str:
    """Returns the name of the metric by which a run's best checkpoint is chosen."""
    return "mAP" if multi_label else "top1"
