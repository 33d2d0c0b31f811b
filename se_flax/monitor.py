"""The metrics and the speed of a run while it trains."""

from collections.abc import Callable, Sequence
from typing import Any

import optax

from se_flax import seeds
from se_flax.errors import RunDiverged
from se_flax.metrics import Meter, Metrics
from se_flax.runtime.progress import Stopwatch

# With on_nonfinite="skip", so many updates left out in a row are the end of a run.
_MOST_SKIPPED = 100


class Monitor:
    """Follows the metrics of a run's networks, and its speed.

    What a dispatch returns is read only when the next one has been issued, so that the devices
    never wait for the host.

    Args:
        networks: the seeds of the networks.
        read: waits for what a dispatch returned, and returns the metrics of each network.
        states: `states()` of the run that this one continues.

    Attributes:
        stopwatch: counts the images of the dispatches that have been read.
    """

    def __init__(
        self,
        networks: Sequence[int],
        read: Callable[[Any], list[Metrics]],
        states: Sequence[dict[str, Any]] | None = None,
    ):
        self._seeds, self._read = networks, read
        self._meters = [Meter(state) for state in states or [None] * len(networks)]
        self._pending: tuple[Any, int] | None = None
        self.stopwatch = Stopwatch()

    def add(self, sums: Any, images: int) -> None:
        """Takes what a dispatch of a number of images returned; reads the one before."""
        self.read()
        self._pending = sums, images

    def read(self) -> None:
        """Waits until the last dispatch is done, and reads what it returned."""
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
        """Number of updates left out so far, of all networks."""
        return sum(meter.skipped for meter in self._meters)

    def start_clock(self) -> None:
        """Measures the speed from now on, once the last dispatch is done."""
        self.read()
        self.stopwatch.start()

    def stop_clock(self) -> None:
        """Leaves out of the speed what follows, once the last dispatch is done."""
        self.read()
        self.stopwatch.stop()

    def states(self) -> list[dict[str, Any]]:
        """Returns what a new monitor needs to continue: plain values, once they are computed."""
        self.read()
        return [meter.state() for meter in self._meters]

    def check_finite(self, learning_rate: optax.Schedule, skips: bool) -> None:
        """Checks that no update had to be left out, of those that have been read.

        Args:
            learning_rate: as a function of the step, for the message.
            skips: whether the run goes on without such updates, unless there are many in a row.

        Raises:
            RunDiverged: if there is one, or if there are too many.
        """
        for seed, meter in zip(self._seeds, self._meters, strict=True):
            first = meter.first_skipped
            if skips:
                first = meter.first_in_a_row if meter.skipped_in_a_row >= _MOST_SKIPPED else None
            if first is None:
                continue
            advice = 'leave such updates out by config.on_nonfinite="skip"'
            if skips:
                advice = f"see why none of {_MOST_SKIPPED} updates from there on was finite"
            of_seed = f" of seed {seed}" if len(self._seeds) > 1 else ""
            rate = float(learning_rate(first.step))
            raise RunDiverged(
                f"training has diverged at step {first.step + 1}{of_seed}: loss {first.loss:g}, "
                f"gradient norm {first.norm:g}, learning rate {rate:g}; earlier checkpoints are "
                "kept; use a lower config.optimizer.learning_rate, a longer "
                f"config.schedule.warmup_epochs or config.optimizer.clip_norm, or {advice}"
            )
