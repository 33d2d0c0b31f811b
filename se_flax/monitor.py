"""Metrics and speed of a run during training."""

from collections.abc import Callable, Sequence
from typing import Any

import optax

from se_flax import seeds
from se_flax.errors import RunDiverged
from se_flax.metrics import Meter, Metrics, Sums
from se_flax.runtime.progress import Stopwatch

# With on_nonfinite="skip", a run ends after this many skipped updates in a row.
_MOST_SKIPPED = 100


class Monitor:
    """Follows the metrics of a run's networks, and its speed.

    The result of a dispatch is read only after the next one has been issued, so that the devices
    never wait for the host.

    Args:
        networks: the seeds of the networks.
        read: waits for the result of a dispatch, and returns the metrics of each network.
        states: the `states()` of the run that this one continues.
        kind: the class of the metrics.

    Attributes:
        stopwatch: counts the images of the dispatches that have been read.
    """

    def __init__(
        self,
        networks: Sequence[int],
        read: Callable[[Any], list[Any]],
        states: Sequence[dict[str, Any]] | None = None,
        kind: type[Sums] = Metrics,
    ):
        self._seeds, self._read = networks, read
        self._meters = [Meter(state, kind) for state in states or [None] * len(networks)]
        self._pending: tuple[Any, int] | None = None
        self.stopwatch = Stopwatch()

    def add(self, sums: Any, images: int) -> None:
        """Takes the result of a dispatch and its number of images; reads the previous result."""
        self.read()
        self._pending = sums, images

    def read(self) -> None:
        """Waits for the last dispatch, and reads its result."""
        if self._pending is not None:
            (sums, images), self._pending = self._pending, None
            for meter, metrics in zip(self._meters, self._read(sums), strict=True):
                meter.add(metrics)
            self.stopwatch.add(images)

    def means(self) -> dict[str, float]:
        """Returns the means of all networks since the last row."""
        return seeds.mean([meter.means() for meter in self._meters])

    def finish_row(self) -> list[dict[str, float]]:
        """Returns the means of each network since the last row, and starts a new one."""
        self.read()
        return [meter.finish_row() for meter in self._meters]

    @property
    def skipped(self) -> int:
        """Number of updates skipped so far, over all networks."""
        return sum(meter.skipped for meter in self._meters)

    def start_clock(self) -> None:
        """Starts to measure the speed, after waiting for the last dispatch."""
        self.read()
        self.stopwatch.start()

    def stop_clock(self) -> None:
        """Stops measuring the speed, after waiting for the last dispatch."""
        self.read()
        self.stopwatch.stop()

    def new_clock(self) -> None:
        """Forgets the speed so far, after waiting for the last dispatch."""
        self.read()
        self.stopwatch = Stopwatch()

    def states(self) -> list[dict[str, Any]]:
        """Waits for the last dispatch; returns plain values from which a new monitor continues."""
        self.read()
        return [meter.state() for meter in self._meters]

    def check_finite(self, learning_rate: optax.Schedule, skips: bool) -> None:
        """Checks that no update that has been read was skipped.

        Args:
            learning_rate: the rate as a function of the step, for the message.
            skips: whether the run may skip updates, as long as there are fewer than 100 in a row.

        Raises:
            RunDiverged: if an update was skipped; if the run may skip updates, only after 100 in
                a row.
        """
        for seed, meter in zip(self._seeds, self._meters, strict=True):
            first = meter.first_skipped
            if skips:
                first = meter.first_in_a_row if meter.skipped_in_a_row >= _MOST_SKIPPED else None
            if first is None:
                continue
            advice = 'skip such updates with config.on_nonfinite="skip"'
            if skips:
                advice = f"find out why none of {_MOST_SKIPPED} updates from there on was finite"
            of_seed = f" of seed {seed}" if len(self._seeds) > 1 else ""
            rate = float(learning_rate(first.step))
            raise RunDiverged(
                f"training has diverged at step {first.step + 1}{of_seed}: loss {first.loss:g}, "
                f"gradient norm {first.norm:g}, learning rate {rate:g}; earlier checkpoints are "
                "kept; use a lower config.optimizer.learning_rate, a longer "
                f"config.schedule.warmup_epochs or config.optimizer.clip_norm, or {advice}"
            )
