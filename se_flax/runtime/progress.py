"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Self, TextIO

import jax
import numpy as np
from tqdm import tqdm

from se_flax.steps import Metrics

QUIET_SECONDS = 30  # where there is no terminal, the longest time without a line
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}, {remaining} left"


class Meter:
    """Training metrics since the last row, and the speed of the training alone.

    What a dispatch returns is read only when the next one has been issued, so that the device
    never waits for the host.

    Args:
        sums: `sums()` of the run that this one continues.

    Attributes:
        skipped_in_a_row: how many updates were left out since the last that was not; of several
            seeds, of each.
        first_in_a_row: step, loss and gradient norm of the first of them, [seeds, 3].
    """

    def __init__(self, sums: dict[str, Any] | None = None):
        sums = {name: np.asarray(value, float) for name, value in (sums or {}).items()}
        self._skipped_before = sums.pop("skipped_before", np.zeros(()))
        self.skipped_in_a_row = sums.pop("skipped_in_a_row", np.zeros(1))
        self.first_in_a_row = sums.pop("first_in_a_row", np.zeros((1, 3)))
        self._sums = Metrics(**sums) if sums else Metrics.zero()
        self._last_row = dict.fromkeys(("loss", "top1", "top3", "top5"), float("nan"))
        self._pending = None
        self._started = None
        self._seconds, self._images = 0.0, 0

    def add(self, metrics: Metrics, images: int) -> None:
        """Takes what a dispatch over a number of images returned."""
        self.read()
        self._pending = metrics, images

    def sums(self) -> dict[str, Any]:
        """Returns the sums since the last row, once the last dispatch is done.

        They are numbers; of several seeds, lists of them.
        """
        self.read()
        sums = {
            **vars(self._sums),
            "skipped_before": self._skipped_before,
            "skipped_in_a_row": self.skipped_in_a_row,
            "first_in_a_row": self.first_in_a_row,
        }
        return {name: np.asarray(value).tolist() for name, value in sums.items()}

    def means(self) -> dict[str, Any]:
        """Returns the means since the last row, or of that row, over what has been read."""
        return self._sums.means() if np.any(self._sums.count) else self._last_row

    @property
    def skipped(self) -> Any:
        """How many updates were left out in all, over what has been read; of seeds, of each."""
        return self._skipped_before + self._sums.skipped

    @property
    def first_skipped(self) -> np.ndarray:
        """Step, loss and gradient norm of the first update left out since the last row.

        Of shape [seeds, 3], over what has been read, [1, 3] before anything was; NaN where none was
        left out.
        """
        first = np.where(self._sums.skipped[..., None] > 0, self._sums.first_skipped, np.nan)
        return np.atleast_2d(first)

    def finish_row(self) -> dict[str, Any]:
        """Returns the means since the last row, once the last dispatch is done; starts anew."""
        self.read()
        self._last_row = self._sums.means()
        self._skipped_before = self.skipped
        self._sums = Metrics.zero()
        return dict(self._last_row)

    def start_clock(self) -> None:
        """Counts time and images from now on, once the last dispatch is done."""
        self.read()
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """Leaves out what comes, until the clock is started again."""
        self.read()
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    @property
    def running(self) -> bool:
        """Whether the clock runs."""
        return self._started is not None

    @property
    def images_per_second(self) -> float:
        """Images per second over all the time the clock has run, 0 if it has not."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._images / (self._seconds + running) if self._images else 0.0

    def read(self) -> None:
        """Waits until the last dispatch is done, and reads what it returned."""
        if self._pending is not None:
            metrics, images = self._pending
            self._pending = None
            done = vars(jax.device_get(metrics))
            skipped = np.atleast_1d(done["skipped"])
            only_skipped = (np.atleast_1d(done["count"]) == 0) & (skipped > 0)
            goes_on = only_skipped & (self.skipped_in_a_row > 0)
            self.skipped_in_a_row = (self.skipped_in_a_row + skipped) * only_skipped
            first = np.atleast_2d(done["first_skipped"])
            self.first_in_a_row = np.where(goes_on[:, None], self.first_in_a_row, first)
            self._sums += Metrics(**{name: np.asarray(x, float) for name, x in done.items()})
            if self._started is not None:
                self._images += images


class Startup:
    """What the time before the first step went to, in seconds.

    As a context it counts what JAX traces and compiles meanwhile.
    """

    _EVENTS: ClassVar = {
        "/jax/core/compile/jaxpr_trace_duration": "tracing",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
        "/jax/core/compile/backend_compile_duration": "compiling",
    }

    def __init__(self):
        self.begun = time.perf_counter()
        self._seconds = {"data": 0.0, "tracing": 0.0, "compiling": 0.0}

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._count)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._count)

    def _count(self, event: str, seconds: float, **_) -> None:
        if event in self._EVENTS:
            self._seconds[self._EVENTS[event]] += seconds

    @contextlib.contextmanager
    def reading_data(self) -> Iterator[None]:
        """Counts what happens within it as reading data."""
        begun = time.perf_counter()
        yield
        self._seconds["data"] += time.perf_counter() - begun

    def __str__(self) -> str:
        total = time.perf_counter() - self.begun
        parts = [f"{seconds:.1f} s {part}" for part, seconds in self._seconds.items()]
        return f"{total:.1f} s after the start: {', '.join(parts)}"


class Progress:
    """Shows how far a run is.

    Args:
        total_steps, steps_per_epoch: length of the run and of an epoch, in steps.
        images_per_step: how many images a step takes, those of all seeds.
        first_step: the step it goes on from.
        stream: where to; by default the standard output.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        first_step: int = 0,
        stream: TextIO | None = None,
    ):
        self._stream = stream or sys.stdout
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._images_per_step = images_per_step
        self._last_line = time.monotonic()
        self._bar = None
        if _can_show_bar(self._stream):
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                file=self._stream,
                bar_format=_BAR,
                dynamic_ncols=True,
                leave=False,
            )

    def update(self, step: int, metrics: dict[str, Any], images_per_second: float) -> None:
        """Moves the bar to a step; where there is no bar, prints a line now and then."""
        if self._bar is None:
            if time.monotonic() - self._last_line >= QUIET_SECONDS:
                self.log(step, metrics, images_per_second)
            return
        self._bar.set_description_str(self._epoch(step), refresh=False)
        self._bar.set_postfix_str(_numbers(metrics, images_per_second), refresh=False)
        self._bar.update(step - self._bar.n)

    def log(self, step: int, metrics: dict[str, Any], images_per_second: float) -> None:
        """Prints a line on the training so far; where there is a bar, that says it already."""
        if self._bar is None:
            images = (self._total_steps - step) * self._images_per_step
            seconds = images / max(images_per_second, 1e-9)
            left = tqdm.format_interval(seconds) if images_per_second else "?"
            self.say(
                f"{self._epoch(step)}  step {step}/{self._total_steps}  "
                f"{_numbers(metrics, images_per_second)}, {left} left"
            )

    def say_results(self, step: int, split: str, results: dict[str, Any]) -> None:
        """Prints a line on an evaluation."""
        self.say(f"{self._epoch(step)}  {format_results(split, results)}")

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is None:
            print(line, file=self._stream, flush=True)
            self._last_line = time.monotonic()
        else:
            self._bar.write(line, file=self._stream)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def _epoch(self, step: int) -> str:
        epochs = self._total_steps // self._steps_per_epoch
        epoch = min(epochs, max(1, -(-step // self._steps_per_epoch)))
        return f"epoch {epoch:{len(str(epochs))}d}/{epochs}"


def _can_show_bar(stream: TextIO) -> bool:
    if not stream.isatty():
        return False
    try:
        return all(os.get_terminal_size(stream.fileno()))  # one of no size shows nothing
    except OSError:  # of a stream that only stands for a terminal
        return True


def _numbers(metrics: dict[str, Any], images_per_second: float) -> str:
    return (
        f"loss {np.mean(metrics['loss']):.4f}, top-1 {np.mean(metrics['top1']):.2f}%, "
        f"{images_per_second:,.0f} images/s"
    )


def format_results(split: str, results: dict[str, Any]) -> str:
    """Returns one line with top-1/3/5 accuracy and loss of a split, of seeds their means."""
    accuracies = ", ".join(f"top-{k} {np.mean(results[f'top{k}']):.2f}%" for k in (1, 3, 5))
    line = f"{split}: {accuracies}, loss {np.mean(results['loss']):.4f}"
    top1 = np.atleast_1d(results["top1"])
    if len(top1) == 1:
        return line
    return f"{line}, mean of {len(top1)} seeds with top-1 {min(top1):.2f} to {max(top1):.2f}%"
