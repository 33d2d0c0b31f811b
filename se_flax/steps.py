"""One step of training or evaluation: pure functions of one device's share, and their pmaps.

Several seeds are trained as one run whose state has an axis for them. A pmapped function takes
them all at once, by `jax.vmap`, or the one at a `place` of that axis.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from se_flax import rng
from se_flax.data.in_memory import DeviceSplit, eval_batch, train_batch
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.data.streaming import HostBatch
from se_flax.state import TrainState

AXIS = "batch"


@flax.struct.dataclass
class Metrics:
    """Sums over images; divided by `count` they are means. Of several seeds, arrays [seeds].

    Attributes:
        loss: of the cross entropy (in training, with label smoothing), in nats.
        top1, top3, top5: of whether the label is among the 1, 3, 5 largest logits.
        count: number of images.
        skipped: number of updates that were left out, because the loss or the gradient was not
            finite; their images do not count.
        first_skipped: of the first of them the step, the loss in nats and the gradient's norm.
    """

    loss: Float[Array, ""]
    top1: Float[Array, ""]
    top3: Float[Array, ""]
    top5: Float[Array, ""]
    count: Float[Array, ""]
    skipped: Float[Array, ""]
    first_skipped: Float[Array, "3"]

    @classmethod
    def zero(cls, *seeds: int) -> "Metrics":
        """The metrics of no images; of several seeds, given their number."""
        fields = {field.name: np.zeros(seeds) for field in dataclasses.fields(cls)}
        return cls(**fields | {"first_skipped": np.zeros((*seeds, 3))})

    @classmethod
    def of(
        cls, logits: Float[Array, "b c"], labels: Int[Array, " b"], loss: Float[Array, " b"],
        mask: Bool[Array, " b"],
    ) -> "Metrics":  # fmt: skip
        """Sums over the images that the mask counts."""
        best = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
        hits = jnp.where(mask[:, None], best == labels[:, None], False)
        return cls(
            loss=jnp.sum(jnp.where(mask, loss, 0.0)),
            top1=jnp.sum(hits[:, :1], dtype=jnp.float32),
            top3=jnp.sum(hits[:, :3], dtype=jnp.float32),
            top5=jnp.sum(hits[:, :5], dtype=jnp.float32),
            count=jnp.sum(mask, dtype=jnp.float32),
            skipped=jnp.zeros(()),
            first_skipped=jnp.zeros(3),
        )

    def if_finite(
        self, is_finite: Bool[Array, ""], step: Int[Array, ""], norm: Float[Array, ""]
    ) -> "Metrics":
        """Returns these metrics of a step or, of one whose update is left out, what tells of it."""
        loss = self.loss / self.count
        skipped = Metrics(
            *jnp.zeros(5), jnp.ones(()), jnp.stack([step.astype(jnp.float32), loss, norm])
        )
        return jax.tree.map(functools.partial(jnp.where, is_finite), self, skipped)

    def __add__(self, other: "Metrics") -> "Metrics":
        total = jax.tree.map(lambda x, y: x + y, self, other)
        before = self.skipped[..., None] > 0
        where = jnp.where if isinstance(total.loss, jax.Array) else np.where
        return total.replace(first_skipped=where(before, self.first_skipped, other.first_skipped))

    def means(self) -> dict[str, Any]:
        """Returns the loss in nats and top-1/3/5 accuracies in percent.

        They are Python floats; of several seeds, float64 arrays of shape [seeds]. Without images
        they are NaN.
        """
        sums = {name: np.asarray(x, float) for name, x in vars(jax.device_get(self)).items()}
        count = np.where(sums["count"] > 0, sums["count"], np.nan)
        means = {"loss": sums["loss"] / count}
        means |= {name: 100 * sums[name] / count for name in ("top1", "top3", "top5")}
        return {name: mean if mean.ndim else float(mean) for name, mean in means.items()}

    @classmethod
    def stack(cls, each: "Sequence[Metrics]") -> "Metrics":
        """Returns the metrics of several seeds as one, not waiting for their computation."""
        return jax.tree.map(lambda *sums: list(sums), *each)


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, config: ConfigDict
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the training step, a pure function of one device's share of the batch.

    Gradients, batch statistics and metrics are averaged or summed over the mapped axis `AXIS`,
    so every device returns the same state. The loss that is minimised includes, weighted by
    `config.auxiliary_weight`, that of the `auxiliary_logits` a network sows (Inception-v3); the
    one that the metrics report does not. With `config.freeze_body`, the network computes as in
    evaluation: without dropout, and by its running statistics, which stay as they are.

    Where the loss or the gradient is not finite, nothing but the step is updated, and the metrics
    tell (`Metrics.skipped`).
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        dropout_key = jax.random.fold_in(rng.key(state.seed, rng.Stream.DROPOUT), state.step)
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(AXIS))

        def loss_of(params):
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch.images,
                train=not config.freeze_body,
                mutable=["batch_stats", "intermediates"],
                rngs={"dropout": dropout_key},
            )
            targets = _targets(batch, logits.shape[-1])
            targets = optax.smooth_labels(targets, config.label_smoothing)
            loss = optax.softmax_cross_entropy(logits, targets)
            total = jnp.mean(loss)
            for auxiliary in updated.get("intermediates", {}).get("auxiliary_logits", ()):
                others = optax.softmax_cross_entropy(auxiliary, targets)
                total += config.auxiliary_weight * jnp.mean(others)
            return total, (logits, loss, updated.get("batch_stats", state.batch_stats))

        gradients, (logits, loss, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), AXIS)
        metrics = jax.lax.psum(Metrics.of(logits, batch.labels, loss, batch.mask), AXIS)
        norm = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            current = {"params": params, "batch_stats": batch_stats}
            # As in TensorFlow's moving average: a younger average follows more closely.
            decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
            ema = optax.incremental_update(current, ema, 1 - decay)
        is_finite = jnp.isfinite(metrics.loss) & jnp.isfinite(norm)
        updated = state.replace(
            params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema
        )
        state = jax.tree.map(functools.partial(jnp.where, is_finite), updated, state)
        metrics = metrics.if_finite(is_finite, state.step, norm)
        return state.replace(step=state.step + 1), metrics

    return train_step


def _targets(batch: Batch, num_classes: int) -> Float[Array, "b num_classes"]:
    targets = jax.nn.one_hot(batch.labels, num_classes)
    if batch.lam is None:
        return targets
    lam = batch.lam[:, None]
    return lam * targets + (1 - lam) * jax.nn.one_hot(batch.mix_labels, num_classes)


def make_eval_step(model: nn.Module) -> Callable[[dict[str, Any], Batch], Metrics]:
    """Returns the evaluation step, a pure function of one device's share of the batch."""

    def eval_step(variables: dict[str, Any], batch: Batch) -> Metrics:
        logits = model.apply(variables, batch.images, train=False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return jax.lax.psum(Metrics.of(logits, batch.labels, loss, batch.mask), AXIS)

    return eval_step


def batch_slots(batch_size: int) -> Int[Array, "local_devices b"]:
    """Returns which places of the global batch each local device fills."""
    share = batch_size // jax.device_count()
    first = jax.process_index() * jax.local_device_count()
    return jnp.arange(jax.local_device_count() * share).reshape(-1, share) + first * share


def _part(tree: Any, place: Int[Array, ""] | None) -> Any:
    """Returns what stands at a place of the leading axis; everything for None."""
    return tree if place is None else jax.tree.map(lambda x: x[place], tree)


def _with_part(tree: Any, part: Any, place: Int[Array, ""] | None) -> Any:
    """Returns the tree with a part put where `_part` took it."""
    return part if place is None else jax.tree.map(lambda x, y: x.at[place].set(y), tree, part)


def pmap_train(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    preprocessing: Preprocessing,
    batch_size: int,
    all_seeds: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns `train(state, split, slots, place, num_steps)`: steps on all devices at once.

    The state is donated. Its arrays have no device axis; `slots` (see `batch_slots`) is what is
    mapped. A single step is compiled without a loop around it, because on a CPU XLA runs
    convolutions many times slower inside one.

    Args:
        train_step: see `make_train_step`.
        preprocessing: of the split.
        batch_size: over all devices.
        all_seeds: the state has an axis of seeds, and all make the steps. Otherwise `place` is
            the one that does, or None for a state without that axis.
    """

    def one_step(state, split, slots):
        positions = state.step * batch_size + slots
        return train_step(state, train_batch(split, preprocessing, state.seed, positions))

    if all_seeds:
        one_step = jax.vmap(one_step, (0, None, None))

    @functools.partial(
        jax.pmap,
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
        out_axes=None,
        static_broadcasted_argnums=4,
        donate_argnums=0,
    )
    def train(state, split, slots, place, num_steps):
        part = _part(state, place)
        if num_steps == 1:
            part, metrics = one_step(part, split, slots)
        else:

            def add_step(carry, _):
                part, total = carry
                part, metrics = one_step(part, split, slots)
                return (part, total + metrics), None

            zero = jax.tree.map(jnp.float32, Metrics.zero(*part.step.shape))
            (part, metrics), _ = jax.lax.scan(add_step, (part, zero), length=num_steps)
        return _with_part(state, part, place), metrics

    return train


def pmap_eval(
    eval_step: Callable[[dict[str, Any], Batch], Metrics],
    preprocessing: Preprocessing,
    all_seeds: bool = False,
) -> Callable[..., Metrics]:
    """Returns `evaluate(variables, split, slots, place, start)`: one batch on all devices.

    For `place` and `all_seeds`, see `pmap_train`.
    """
    if all_seeds:
        eval_step = jax.vmap(eval_step, (0, None))

    @functools.partial(jax.pmap, axis_name=AXIS, in_axes=(None, None, 0, None, None), out_axes=None)
    def evaluate(variables, split, slots, place, start):
        batch = eval_batch(split, preprocessing, start + slots)
        return eval_step(_part(variables, place), batch)

    return evaluate


def pmap_train_images(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    preprocessing: Preprocessing,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns `train(state, images, labels, positions, place)`: a step on images from the host.

    The arrays are of shapes [devices, b, ...] (see `HostBatch`); the state is donated. For
    `place`, see `pmap_train`.
    """

    @functools.partial(
        jax.pmap, axis_name=AXIS, in_axes=(None, 0, 0, 0, None), out_axes=None, donate_argnums=0
    )
    def train(state, images, labels, positions, place):
        part = _part(state, place)
        batch = preprocessing.train(part.seed, images, labels, positions)
        part, metrics = train_step(part, batch)
        return _with_part(state, part, place), metrics

    return train


def pmap_eval_images(
    eval_step: Callable[[dict[str, Any], Batch], Metrics], preprocessing: Preprocessing
) -> Callable[..., Metrics]:
    """Returns `evaluate(variables, images, labels, mask, place)`: one batch from the host.

    The arrays are of shapes [devices, b, ...] (see `HostBatch`). For `place`, see `pmap_train`.
    """

    @functools.partial(jax.pmap, axis_name=AXIS, in_axes=(None, 0, 0, 0, None), out_axes=None)
    def evaluate(variables, images, labels, mask, place):
        batch = Batch(preprocessing.normalize(images), labels, mask)
        return eval_step(_part(variables, place), batch)

    return evaluate


def evaluate_batches(
    evaluate: Callable[..., Metrics],
    variables: dict[str, Any],
    batches: Iterable[HostBatch],
    places: Sequence[int | None] = (None,),
) -> dict[str, Any]:
    """Returns loss and top-1/3/5 over the images of batches (see `Metrics.means`).

    Args:
        evaluate: see `pmap_eval_images`.
        variables: of the network; the same at several places of an axis of seeds, if any.
        batches: of the images.
        places: which of these to evaluate.
    """
    sums: list[list[Metrics]] = [[] for _ in places]
    for batch in batches:
        images, labels, _, mask = batch.on_devices()
        for place, sums_of_place in zip(places, sums, strict=True):
            sums_of_place.append(evaluate(variables, images, labels, mask, place))
    return _means_at(places, sums)


def evaluate_split(
    evaluate: Callable[..., Metrics],
    variables: dict[str, Any],
    split: DeviceSplit,
    batch_size: int,
    places: Sequence[int | None] = (None,),
) -> dict[str, Any]:
    """Returns loss and top-1/3/5 over exactly the images of a split (see `Metrics.means`).

    For the arguments, see `evaluate_batches`; `evaluate` is that of `pmap_eval`.
    """
    devices = jax.device_count()
    size = len(split.labels)
    batch_size = -(-min(batch_size, size) // devices) * devices
    slots = batch_slots(batch_size)
    sums = [
        [evaluate(variables, split, slots, place, start) for start in range(0, size, batch_size)]
        for place in places
    ]
    return _means_at(places, sums)


def _means_at(places: Sequence[int | None], sums: Sequence[Sequence[Metrics]]) -> dict[str, Any]:
    """Returns the means of the sums at each place; without an axis for them, if it is None."""
    means = [functools.reduce(Metrics.__add__, of_place).means() for of_place in sums]
    if places[0] is None:
        return means[0]
    return {name: np.array([each[name] for each in means]) for name in means[0]}
