"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar, TextIO

import jax
import numpy as np
from tqdm import tqdm

from se_flax.runtime.status import QUIET_SECONDS, doing
from se_flax.runtime.terminal import columns_of, fitted
from se_flax.runtime.time_left import TimeLeft

_NARROW = "{desc}{postfix} |{bar}|"
_WIDE = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}"
_FROM_COLUMNS = 100  # width of a terminal in which the bar also shows the steps


class Stopwatch:
    """The speed of the training alone, in images per second."""

    def __init__(self):
        self._started: float | None = None
        self._seconds, self._images = 0.0, 0

    def start(self) -> None:
        """Counts time and images from now on."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Leaves out what follows, until it is started again."""
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def add(self, images: int) -> None:
        """Counts images, if the watch runs."""
        if self._started is not None:
            self._images += images

    @property
    def images_per_second(self) -> float:
        """Images per second over all the time that the watch has run, 0 if it has not."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._images / (self._seconds + running) if self._images else 0.0


class Startup:
    """Where the time before the first step goes, in seconds; counts until `stop`."""

    _EVENTS: ClassVar = {
        "/jax/core/compile/jaxpr_trace_duration": "tracing",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
        "/jax/core/compile/backend_compile_duration": "compiling",
    }

    def __init__(self):
        self.begun = time.perf_counter()
        self._seconds = {"data": 0.0, "tracing": 0.0, "compiling": 0.0}
        self._counting = True
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def stop(self) -> None:
        """Ends the counting of what JAX traces and compiles."""
        if self._counting:
            self._counting = False
            jax.monitoring.unregister_event_duration_listener(self._count)

    def _count(self, event: str, seconds: float, **_) -> None:
        if event in self._EVENTS:
            self._seconds[self._EVENTS[event]] += seconds

    @contextlib.contextmanager
    def reading_data(self) -> Iterator[None]:
        """Counts the time within it as reading data."""
        begun = time.perf_counter()
        yield
        self._seconds["data"] += time.perf_counter() - begun

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.begun

    def __str__(self) -> str:
        parts = [f"{seconds:.1f} s {part}" for part, seconds in self._seconds.items()]
        return f"{self.elapsed:.1f} s after the start: {', '.join(parts)}"


class Progress:
    """Shows how far a run is.

    Args:
        total_steps, steps_per_epoch: length of the run and of an epoch, in steps.
        images_per_step: how many images a step takes, those of all seeds.
        first_step: step that it continues from.
        stream: where to; by default the standard output.
        num_classes: of the data set; decides which accuracies are of interest.
        time_left: estimates how long the run still takes; by default from its steps alone.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        first_step: int = 0,
        stream: TextIO | None = None,
        num_classes: int | None = None,
        time_left: TimeLeft | None = None,
    ):
        self._stream = stream or sys.stdout
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._num_classes = num_classes
        self._time_left = time_left or TimeLeft(total_steps, images_per_step)
        self._last_line = time.monotonic()
        self._bar = None
        if _can_show_bar(self._stream):
            columns, form = _width_and_form(self._stream)
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                desc=self._epoch(first_step),
                file=self._stream,
                ncols=columns,
                bar_format=form,
                leave=False,
            )

    def update(self, step: int, metrics: dict[str, float], images_per_second: float) -> None:
        """Moves the bar to a step; where there is no bar, prints a line now and then."""
        if self._bar is None:
            if time.monotonic() - self._last_line >= QUIET_SECONDS:
                self.log(step, metrics, images_per_second)
            return
        self._bar.ncols, self._bar.bar_format = _width_and_form(self._stream)  # of this moment
        self._bar.set_description_str(self._epoch(step), refresh=False)
        numbers = self._numbers(step, metrics, images_per_second)
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update(step - self._bar.n)

    def log(self, step: int, metrics: dict[str, float], images_per_second: float) -> None:
        """Prints a line on the training so far; where there is a bar, moves it."""
        if self._bar is not None:
            self.update(step, metrics, images_per_second)
        else:
            numbers = self._numbers(step, metrics, images_per_second)
            self.say(f"{self._epoch(step)}  step {step}/{self._total_steps}  {numbers}")

    def say_results(self, step: int, split: str, results: Sequence[dict[str, float]]) -> None:
        """Prints a line on an evaluation."""
        self.say(f"{self._epoch(step)}  {format_results(split, results, self._num_classes)}")

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one; on a terminal, broken between words."""
        line = fitted(line, self._stream)
        if self._bar is None:
            print(line, file=self._stream, flush=True)
            self._last_line = time.monotonic()
        else:
            self._bar.write(line, file=self._stream)

    def doing(self, what: str, after: float = 0.5) -> contextlib.AbstractContextManager[None]:
        """Says what is being done within it; see `status.doing`, but on the bar if there is one."""
        show = None if self._bar is None else self._bar.set_description_str
        return doing(what, self._stream, show, after)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._stream.flush()  # or what another stream prints next would land on the bar

    def _epoch(self, step: int) -> str:
        epochs = self._total_steps // self._steps_per_epoch
        epoch = min(epochs, max(1, -(-step // self._steps_per_epoch)))
        return f"epoch {epoch:{len(str(epochs))}d}/{epochs}"

    def _numbers(self, step: int, metrics: dict[str, float], images_per_second: float) -> str:
        seconds = self._time_left(step, images_per_second)
        left = "?" if seconds is None else tqdm.format_interval(seconds)
        titles = {"top1": "top-1", "label_accuracy": "labels"}
        shares = [f"{title} {metrics[x]:.2f}%, " for x, title in titles.items() if x in metrics]
        return (
            f"loss {metrics['loss']:.4f}, {''.join(shares)}"
            f"{images_per_second:,.{0 if images_per_second >= 10 else 1}f} images/s, {left} left"
        )


def _can_show_bar(stream: TextIO) -> bool:
    if not stream.isatty():
        return False
    try:
        stream.fileno()
    except OSError:  # it only stands for a terminal
        return True
    return columns_of(stream) > 0  # one of no size shows nothing


def _width_and_form(stream: TextIO) -> tuple[int | None, str]:
    """Returns the bar's width, which leaves room for the echo of Ctrl-C, ^C, and its form."""
    columns = columns_of(stream)
    form = _WIDE if not columns or columns >= _FROM_COLUMNS else _NARROW
    return (max(1, columns - 3) if columns else None), form


def counted(number: int, noun: str) -> str:
    """Returns "1 image", or "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_steps(steps: int | Sequence[int]) -> str:
    """Returns "step 16", or "steps 16 to 48" for steps that differ."""
    steps = [steps] if isinstance(steps, int) else steps
    least, most = min(steps), max(steps)
    return f"step {least}" if least == most else f"steps {least} to {most}"


def format_results(
    title: str, results: Sequence[dict[str, float]], num_classes: int | None = None
) -> str:
    """Returns one line with top-1/3/5 accuracy and loss, of several networks their means.

    Given the number of classes, it leaves out top-3 and top-5 if that is 100% in any case. For
    images of several classes, it shows mAP and the accuracy of the labels, and for detectors the
    average precision.
    """

    def mean(name):
        return np.mean([result[name] for result in results])

    ks = [k for k in (1, 3, 5) if k == 1 or num_classes is None or k < num_classes]
    shown = {f"top{k}": f"top-{k}" for k in ks}
    if "mAP" in results[0]:
        shown = {"mAP": "mAP", "label_accuracy": "accuracy of labels"}
    if "AP" in results[0]:
        shown = {"AP": "AP", "AP50": "AP50", "AP75": "AP75"}
    values = ", ".join(f"{word} {mean(name):.2f}%" for name, word in shown.items())
    loss = f", loss {mean('loss'):.4f}" if "loss" in results[0] else ""
    line = f"{title}: {values}{loss}"
    name, word = next(iter(shown.items()))
    each = [result[name] for result in results]
    if len(each) == 1:
        return line
    return f"{line}, mean of {len(each)} seeds with {word} {min(each):.2f} to {max(each):.2f}%"
