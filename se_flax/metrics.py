"""Loss and accuracy: sums on the devices, means on the host, and the rows of a training log."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Sums:
    """What metrics of any kind share: sums over images; dividing by `count` gives means.

    Attributes:
        shares: names of the sums whose means are shown in percent.
        parts: names of the sums whose means are shown as they are, apart from the loss.
        loss: sum of the loss (in training, with label smoothing and class weights), in nats.
        count: number of images.
        skipped: number of updates skipped because the loss or the gradient was not finite;
            their images do not count.
        first_skipped: step, loss in nats and gradient norm of the first of those updates.
    """

    shares: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]] = ()
    loss: Float[Array, ""]
    count: Float[Array, ""]
    skipped: Float[Array, ""]
    first_skipped: Float[Array, "3"]
    replace: Callable[..., Any]

    @classmethod
    def zero(cls) -> Any:
        """The metrics of no images, on the host."""
        names = [field.name for field in dataclasses.fields(cast(Any, cls))]
        return cls(**dict.fromkeys(names, np.zeros(())) | {"first_skipped": np.zeros(3)})

    def if_finite(
        self, is_finite: Bool[Array, ""], step: Int[Array, ""], norm: Float[Array, ""]
    ) -> Any:
        """Returns these metrics if the step is finite, otherwise those of a skipped update."""
        loss = self.loss / self.count
        first = jnp.stack([step.astype(jnp.float32), loss, norm])
        skipped = jax.tree.map(jnp.zeros_like, self)
        skipped = skipped.replace(skipped=jnp.ones(()), first_skipped=first)
        return jax.tree.map(functools.partial(jnp.where, is_finite), self, skipped)

    def __add__(self, other: Any) -> Any:
        total = jax.tree.map(lambda x, y: x + y, self, other)
        before = self.skipped[..., None] > 0
        where = jnp.where if isinstance(total.loss, jax.Array) else np.where
        return total.replace(first_skipped=where(before, self.first_skipped, other.first_skipped))

    def on_host(self) -> Any:
        """Waits for the sums, and returns them as float64 NumPy arrays."""
        return jax.tree.map(lambda x: np.asarray(x, float), jax.device_get(self))

    def means(self) -> dict[str, float]:
        """Returns the loss and its `parts` in nats, the `shares` in percent; NaN without images."""
        sums = vars(self.on_host())
        count = sums["count"] if sums["count"] > 0 else np.nan
        losses = {name: sums[name] / count for name in ("loss", *self.parts)}
        shares = {name: 100 * sums[name] / count for name in self.shares}
        return {name: float(x) for name, x in (losses | shares).items()}


@flax.struct.dataclass
class Metrics(Sums):
    """The metrics of images of one class each.

    Attributes:
        top1, top3, top5: number of images whose label is among the 1, 3, 5 largest logits.
        loss, count, skipped, first_skipped: see `Sums`.
    """

    shares: ClassVar[tuple[str, ...]] = ("top1", "top3", "top5")
    loss: Float[Array, ""]
    top1: Float[Array, ""]
    top3: Float[Array, ""]
    top5: Float[Array, ""]
    count: Float[Array, ""]
    skipped: Float[Array, ""]
    first_skipped: Float[Array, "3"]

    @classmethod
    def of(
        cls, logits: Float[Array, "b c"], labels: Int[Array, " b"], loss: Float[Array, " b"],
        mask: Bool[Array, " b"],
    ) -> "Metrics":  # fmt: skip
        """Sums over the images whose mask is True; `loss` is the loss of each image."""
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


def total(each: Iterable[Any]) -> Any:
    """Returns the sum of one or more metrics of one kind."""
    return functools.reduce(operator.add, each)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A skipped update.

    Attributes:
        step: number of updates before it.
        loss: its loss, in nats.
        norm: norm of its gradient.
    """

    step: int
    loss: float
    norm: float


class Meter:
    """The training metrics of a network, averaged over each row of the log.

    Args:
        state: the `state()` of the run that this one continues.
        kind: the class of the metrics.

    Attributes:
        skipped: number of updates skipped so far.
        skipped_in_a_row: number of updates skipped since the last one that was not.
        first_in_a_row: the first of those.
    """

    def __init__(self, state: dict[str, Any] | None = None, kind: type[Sums] = Metrics):
        state = dict(
            state or {"total_skipped": 0, "skipped_in_a_row": 0, "first_in_a_row": [0, 0, 0]}
        )
        self.skipped = state.pop("total_skipped")
        self.skipped_in_a_row = state.pop("skipped_in_a_row")
        self.first_in_a_row = _skipped(state.pop("first_in_a_row"))
        sums = {name: np.asarray(value, float) for name, value in state.items()}
        self._kind = kind
        self._sums = kind(**sums) if sums else kind.zero()
        self._last_row = dict.fromkeys(("loss", *kind.parts, *kind.shares), float("nan"))

    def add(self, metrics: Sums) -> None:
        """Adds the metrics of one or more steps, already on the host."""
        skipped = int(metrics.skipped)
        self.skipped += skipped
        if metrics.count > 0 or not skipped:
            self.skipped_in_a_row = 0
        elif not self.skipped_in_a_row:
            self.first_in_a_row = _skipped(metrics.first_skipped)
        if metrics.count == 0:
            self.skipped_in_a_row += skipped
        self._sums += metrics

    def means(self) -> dict[str, float]:
        """Returns the means since the last row; if nothing was added since, those of that row."""
        return self._sums.means() if self._sums.count else self._last_row

    @property
    def first_skipped(self) -> Skipped | None:
        """The first update skipped since the last row, if any."""
        return _skipped(self._sums.first_skipped) if self._sums.skipped else None

    def finish_row(self) -> dict[str, float]:
        """Returns the means since the last row, and starts a new one."""
        self._last_row, self._sums = self._sums.means(), self._kind.zero()
        return dict(self._last_row)

    def state(self) -> dict[str, Any]:
        """Returns plain values from which a new meter continues."""
        return {
            **{name: np.asarray(value).tolist() for name, value in vars(self._sums).items()},
            "total_skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "first_in_a_row": list(dataclasses.astuple(self.first_in_a_row)),
        }


def _skipped(values: Any) -> Skipped:
    step, loss, norm = values
    return Skipped(int(step), float(loss), float(norm))
