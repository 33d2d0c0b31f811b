"""The training step and the evaluation step of a detector, of one device's share of a batch."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from se_flax import rng
from se_flax.detection.average_precision import FoundInBatch
from se_flax.detection.batches import HostBatch, normalized
from se_flax.detection.faster_rcnn import Batch, FasterRCNN, detect, losses
from se_flax.detection.matching import Truth
from se_flax.metrics import Sums
from se_flax.parallel import AXIS
from se_flax.state import TrainState
from se_flax.step import mean_gradients, next_state


@flax.struct.dataclass
class DetectionMetrics(Sums):
    """The sums over training images.

    Attributes:
        loss: of the four losses together.
        objectness_loss, proposal_box_loss, class_loss, box_loss: see `faster_rcnn.losses`.
        count, skipped, first_skipped: see `Sums`.
    """

    parts: ClassVar[tuple[str, ...]] = (
        "objectness_loss",
        "proposal_box_loss",
        "class_loss",
        "box_loss",
    )
    loss: Float[Array, ""]
    objectness_loss: Float[Array, ""]
    proposal_box_loss: Float[Array, ""]
    class_loss: Float[Array, ""]
    box_loss: Float[Array, ""]
    count: Float[Array, ""]
    skipped: Float[Array, ""]
    first_skipped: Float[Array, "3"]

    @classmethod
    def of(cls, four: Float[Array, "b 4"]) -> "DetectionMetrics":
        """Sums over images, given the four losses of the batch that each of them is in."""
        parts = dict(zip(cls.parts, jnp.sum(four, axis=0), strict=True))
        count = jnp.float32(len(four))
        return cls(
            jnp.sum(four), **parts, count=count, skipped=jnp.zeros(()), first_skipped=jnp.zeros(3)
        )


@flax.struct.dataclass
class Found:
    """What was detected in an evaluation. Average precision needs that of all its images.

    Attributes:
        batches: one entry for each batch.
    """

    batches: tuple[FoundInBatch, ...]

    def __add__(self, other: "Found") -> "Found":
        return Found(self.batches + other.batches)

    def on_host(self) -> "Found":
        """Waits for the arrays, and returns them as NumPy arrays."""
        return jax.device_get(self)


def make_train_step(
    model: FasterRCNN,
    optimizer: optax.GradientTransformation,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
) -> Callable[[TrainState, HostBatch], tuple[TrainState, DetectionMetrics]]:
    """Returns the training step; see `se_flax.step.make_train_step`.

    Args:
        model: the detector.
        optimizer: of its parameters; those that are not `trainable` must be left as they are.
        mean, std: by which images are normalised.
        ema_decay, accumulate_steps: see `se_flax.step.make_train_step`.
    """

    def gradients_of(state, own, key, place):
        images = normalized(own.images, own.sizes, mean, std)
        batch = Batch(images, own.sizes, Truth(own.boxes, own.labels, own.valid))

        def minimised(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            four = losses(model, variables, batch, jax.random.fold_in(key, place))
            four = jnp.stack([four[part.removesuffix("_loss")] for part in DetectionMetrics.parts])
            return jnp.sum(four), four

        gradients, four = jax.grad(minimised, has_aux=True)(state.params)
        four = jnp.broadcast_to(four, (len(images), 4))
        return gradients, (four, state.batch_stats)

    compute = gradients_of
    if accumulate_steps > 1:
        compute = functools.partial(mean_gradients, gradients_of, accumulate_steps)

    def train_step(state: TrainState, own: HostBatch) -> tuple[TrainState, DetectionMetrics]:
        key = jax.random.fold_in(rng.key(state.seed, rng.Stream.SAMPLE), state.step)
        gradients, (four, batch_stats) = compute(state, own, key, jax.lax.axis_index(AXIS))
        metrics = DetectionMetrics.of(four)
        return next_state(state, optimizer, gradients, batch_stats, metrics, ema_decay)

    return train_step


def make_eval_step(
    model: FasterRCNN, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[dict[str, Any], HostBatch], Found]:
    """Returns the evaluation step, which gives the detections of all devices.

    Args:
        model: the detector.
        mean, std: by which images are normalised.
    """

    def eval_step(variables: dict[str, Any], own: HostBatch) -> Found:
        found = detect(model, variables, normalized(own.images, own.sizes, mean, std), own.sizes)
        found = FoundInBatch(own.places, own.sizes, own.mask, found)
        return Found((jax.lax.all_gather(found, AXIS, tiled=True),))

    return eval_step
