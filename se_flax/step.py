"""The training step and the evaluation step: pure functions of one device's share of a batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from se_flax import rng
from se_flax.data.preprocessing import Batch
from se_flax.label_metrics import LabelMetrics, Scored
from se_flax.losses import Loss
from se_flax.metrics import Metrics
from se_flax.parallel import AXIS
from se_flax.state import TrainState


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
    target_threshold: float = 0.0,
    auxiliary_weight: float = 0.0,
    ema_decay: float = 0.0,
    freeze_backbone: bool = False,
    accumulate_steps: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics | LabelMetrics]]:
    """Returns the training step.

    Gradients and batch statistics are averaged over the mapped axis `AXIS`, and metrics are summed,
    so that every device returns the same state. If the loss or the gradient is not finite, only the
    step counter is updated, and the metrics count the update as skipped.

    Args:
        model: the network.
        optimizer: see `se_flax.optim.make_optimizer`.
        loss, label_smoothing, class_weights, target_threshold: see `se_flax.losses.Loss`.
        auxiliary_weight: weight of the loss of the `auxiliary_logits` that a network sows
            (Inception-v3). The minimised loss includes it; the loss in the metrics does not.
        ema_decay: decay of the moving average, if the state has one.
        freeze_backbone: whether the network computes as in evaluation: without dropout, and with
            its running statistics, which do not change.
        accumulate_steps: number of equal parts in which a device computes its share, one after
            another, to save memory. The update is that of the same step on so many times as many
            devices: the gradient is the mean over the parts, each part is normalised by its own
            batch statistics, and the running statistics become the mean of those after each part.
    """

    minimised = Loss(loss, label_smoothing, tuple(class_weights), target_threshold)
    loss_of = functools.partial(
        _loss,
        model,
        minimised,
        auxiliary_weight=auxiliary_weight,
        train=not freeze_backbone,
    )
    gradients_of = functools.partial(_gradients, loss_of)
    if accumulate_steps > 1:
        gradients_of = functools.partial(mean_gradients, gradients_of, accumulate_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics | LabelMetrics]:
        batch = minimised.weighted(batch)
        dropout_key = jax.random.fold_in(rng.key(state.seed, rng.Stream.DROPOUT), state.step)
        gradients, ((logits, loss), batch_stats) = gradients_of(
            state, batch, dropout_key, jax.lax.axis_index(AXIS)
        )
        kind = LabelMetrics if batch.labels.ndim == 2 else Metrics
        metrics = kind.of(logits, batch.labels, loss, batch.mask)
        return next_state(state, optimizer, gradients, batch_stats, metrics, ema_decay)

    return train_step


def next_state(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    gradients: Any,
    batch_stats: Any,
    metrics: Any,
    ema_decay: float = 0.0,
) -> tuple[TrainState, Any]:
    """Returns the state after an update, and the metrics, the same on all devices of `AXIS`.

    If the loss or the gradient is not finite, only the step counter is updated, and the metrics
    count the update as skipped.

    Args:
        state: the state before.
        optimizer: see `make_train_step`.
        gradients, batch_stats: of this device's share of the batch; their means are used.
        metrics: the sums of this device (see `metrics.Sums`); their sum is returned.
        ema_decay: see `make_train_step`.
    """
    gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), AXIS)
    metrics = jax.lax.psum(metrics, AXIS)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    variables = {"params": params, "batch_stats": batch_stats}
    ema = _moving_average(state, variables, ema_decay)
    updated = state.replace(**variables, opt_state=opt_state, ema=ema)

    norm = optax.tree.norm(gradients)
    is_finite = jnp.isfinite(metrics.loss) & jnp.isfinite(norm)
    metrics = metrics.if_finite(is_finite, state.step, norm)
    state = jax.tree.map(functools.partial(jnp.where, is_finite), updated, state)
    return state.replace(step=state.step + 1), metrics


def _loss(model, loss_of, params, batch_stats, batch, dropout_key, auxiliary_weight, train):
    """Returns the mean loss that is minimised; logits and losses; and running statistics."""
    logits, updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        batch.images,
        train=train,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": dropout_key},
    )
    targets = loss_of.targets(batch, logits.shape[-1])
    loss = loss_of.of(logits, targets, batch)
    minimised = jnp.mean(loss)
    sown = updated.get("intermediates") or {}
    for auxiliary in sown.get("auxiliary_logits") or ():
        minimised += auxiliary_weight * jnp.mean(loss_of.of(auxiliary, targets, batch))
    return minimised, ((logits, loss), updated.get("batch_stats", batch_stats))


def _gradients(loss_of, state, batch, dropout_key, place):
    """Returns the gradients of the loss, and what `_loss` returns besides the loss."""
    key = jax.random.fold_in(dropout_key, place)
    return jax.grad(loss_of, has_aux=True)(state.params, state.batch_stats, batch, key)


def mean_gradients(
    gradients_of: Callable[..., Any], num_parts: int, state: Any, batch: Any, key: Any, place: Any
) -> Any:
    """Returns what `gradients_of` does, computed on one part of the batch after another.

    Gradients and running statistics are the means over the parts, as over as many devices.

    Args:
        gradients_of: `gradients_of(state, part, key, place)` returns the gradients, and a pair: a
            tree of arrays with a leading axis of images, and the running statistics.
        num_parts: number of parts.
        state, batch, key: given to `gradients_of`, the batch in parts.
        place: of this device among all; `gradients_of` gets the place of a part among all parts.
    """
    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), batch)
    places = num_parts * place + jnp.arange(num_parts)

    def compute(state, parts, places, key, unroll):
        def add(total, part):
            gradients, (of_images, batch_stats) = gradients_of(state, part[0], key, part[1])
            return jax.tree.map(jnp.add, total, (gradients, batch_stats)), of_images

        zeros = jax.tree.map(jnp.zeros_like, (state.params, state.batch_stats))
        return jax.lax.scan(add, zeros, (parts, places), unroll=unroll)

    # On a CPU, XLA runs convolutions many times slower inside a loop.
    total, of_parts = jax.lax.platform_dependent(
        *(state, parts, places, key),
        cpu=functools.partial(compute, unroll=num_parts),
        default=functools.partial(compute, unroll=1),
    )
    gradients, batch_stats = jax.tree.map(lambda x: x / num_parts, total)
    of_images = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), of_parts)
    return gradients, (of_images, batch_stats)


def _moving_average(state: TrainState, variables: dict[str, Any], decay: float) -> Any:
    """Returns the next moving average; in the first steps its decay is lower, as in TensorFlow."""
    if state.ema is None:
        return None
    at_most = (1 + state.step) / (10 + state.step)
    return optax.incremental_update(variables, state.ema, 1 - jnp.minimum(decay, at_most))


def make_eval_step(
    model: nn.Module, loss: str = "softmax"
) -> Callable[[dict[str, Any], Batch], Metrics | Scored]:
    """Returns the evaluation step, which sums metrics over all devices.

    Every class weighs the same in its loss, and labels are not smoothed.

    Args:
        model: the network.
        loss: see `se_flax.losses.Loss`.
    """
    measured = Loss(loss)

    def eval_step(variables: dict[str, Any], batch: Batch) -> Metrics | Scored:
        logits = model.apply(variables, batch.images, train=False)
        if loss == "softmax":
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        else:
            losses = measured.of(logits, measured.targets(batch, logits.shape[-1]), batch)
        if batch.labels.ndim == 2:
            return Scored.of(logits, batch.labels, losses, batch.mask, AXIS)
        return jax.lax.psum(Metrics.of(logits, batch.labels, losses, batch.mask), AXIS)

    return eval_step
