"""A training run, from a config to a trained network."""

import contextlib
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from se_flax import seeds
from se_flax.config import check_config, leaves
from se_flax.data.dataset import RunDataset, is_multi_label
from se_flax.data.grid import png_of
from se_flax.errors import UserError
from se_flax.images_of_run import stored_preparation
from se_flax.monitor import Monitor
from se_flax.overview import (
    conclusion,
    count_parameters,
    environment,
    introduction,
    parameter_table,
)
from se_flax.parallel import check_devices
from se_flax.program import Program, build_program, dataset_of_run, with_preparation
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.runtime.distributed import check_same, from_first, is_first, on_all
from se_flax.runtime.interrupts import Interrupt
from se_flax.runtime.lock import Lock, lock_of
from se_flax.runtime.paths import Path, to_path
from se_flax.runtime.profiler import Profiler
from se_flax.runtime.progress import QUIET_SECONDS, Progress, Startup
from se_flax.runtime.status import doing
from se_flax.runtime.storage import persistently, write_json, write_text
from se_flax.runtime.time_left import TimeLeft
from se_flax.runtime.writers import TIMES, Callback, Writers, make_writer
from se_flax.task import metric_to_choose_by
from se_flax.workdir import changed_fields, check_same_run, config_as_json, write_config

# Format of checkpoints. Version 1 had other random streams, so no run can continue from it.
_FORMAT = 2
_EVALUATIONS_OF_SUMMARY = 2  # the final and the best state, on the test split


class RunInterrupted(Exception):
    """The run was asked to stop and has saved its state."""


def train(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    dataset: RunDataset | None = None,
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Trains a network, from the newest checkpoint in the workdir if there is one.

    A run that is killed at any moment and started again ends in the same parameters as an
    uninterrupted one, bit for bit, on a CPU (GPUs repeat no run to the bit). In a run of several
    processes, each of them calls this function; only the first reads and writes the workdir.

    Args:
        config: see `se_flax.config.default_config`.
        workdir: where config.json, checkpoints, TensorBoard events, metrics.jsonl,
            parameters.txt and summary.json go: a folder, or gs://BUCKET/FOLDER.
        dataset: what to train on, instead of the data set that `config.dataset` names.
        callback: is called as `callback(step, values)` for each row of training metrics and each
            evaluation, with all its values by name ("train/loss", "time/images_per_second"). In a
            run of several processes, the first one calls it. A run that was killed repeats the
            rows after its last checkpoint.

    Returns:
        The content of summary.json.

    Raises:
        UserError: before anything is compiled or written, if the config cannot be used, the
            workdir belongs to another run, or another run is writing to it.
        RunInterrupted: after SIGINT or SIGTERM, once the state is saved.
        RunDiverged: if the loss or the gradient is not finite (see `config.on_nonfinite`).
        StorageError: if results cannot be written, after several tries.
    """
    startup = Startup()
    workdir = to_path(workdir)
    with contextlib.ExitStack() as stack:
        stack.callback(startup.stop)
        with _saying("starting"):
            config = with_preparation(_checked(config, dataset), workdir, dataset)
        changes = from_first(lambda: _changes(workdir, config))
        with startup.reading_data(), _saying("reading the data"):
            dataset = on_all(lambda: dataset_of_run(config, dataset))
        program = build_program(config, dataset)
        stack.callback(program.close)
        check_same("data set", [program.sizes, list(dataset.class_names)])

        run = stack.enter_context(_opened(program, workdir, startup))
        with _saying("initialising the network"):
            state, step = run.start()
        if step == program.plan.total_steps:
            summary = run.finished_summary(changes)
            if summary is not None:
                return summary
        stack.enter_context(run.announced(step, changes, callback))
        state = run.loop(state, step)
        return run.summarise(state)


def _saying(what: str) -> contextlib.AbstractContextManager[None]:
    """Says what is being done within it, in the first process alone."""
    is_alone = not jax.distributed.is_initialized()  # known before the devices are started
    return doing(what) if is_alone or is_first() else contextlib.nullcontext()


def _checked(config: ConfigDict, dataset: RunDataset | None) -> ConfigDict:
    """Returns a checked copy of the config; all processes must have the same one."""
    config = config.copy_and_resolve_references()
    if dataset is not None:
        config.dataset.name = dataset.name
        config.dataset.multi_label = is_multi_label(dataset)
    check_config(config, names_dataset=dataset is None)
    check_devices(config, jax.device_count())
    check_same("config", config_as_json(config))
    return config


def _changes(workdir: Path, config: ConfigDict) -> list[str]:
    """Returns what a config changes in the workdir's run; raises `UserError` if it may not."""
    check_same_run(workdir, config)
    return changed_fields(workdir, config)


@contextlib.contextmanager
def _opened(program: Program, workdir: Path, startup: Startup) -> Iterator["_Run"]:
    """Opens the workdir of a run, as its only writer, and its checkpoints."""
    abstract = program.abstract()  # fails before anything is written
    with contextlib.ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        lock = lock_of(workdir)
        from_first(lambda: _enter(lock, stack))
        chosen_by = metric_to_choose_by(program.config)
        metrics = seeds.metrics_to_choose_by(program.networks.seeds, chosen_by)
        saved = stack.enter_context(Checkpoints(workdir, metrics))
        yield _Run(program, workdir, lock, startup, interrupt, saved, abstract)


def _enter(lock: Lock, stack: contextlib.ExitStack) -> None:
    """Locks the workdir until the stack is closed."""
    stack.enter_context(lock)


class _Run:
    """A run in its open workdir; its public methods are its phases, in order."""

    def __init__(self, program, workdir, lock, startup, interrupt, saved, abstract):
        self._program: Program = program
        self._config, self._plan = program.config, program.plan
        self._seeds = program.networks.seeds
        self._workdir: Path = workdir
        self._lock: Lock = lock
        self._startup: Startup = startup
        self._interrupt: Interrupt = interrupt
        self._saved: Checkpoints = saved
        self._abstract = abstract
        self._seconds_before = 0.0
        self._monitor = Monitor(self._seeds, program.metrics, None, program.task.metrics)
        self._writer = Writers()
        self._profiler = Profiler(workdir, self._config.profile_steps if is_first() else 0)
        self._progress: Progress
        self._time_left = TimeLeft(
            self._plan.total_steps,
            program.images_per_step,
            program.sizes[program.selection] * len(self._seeds),
            lambda step: self._plan.evaluations_left(step) + _EVALUATIONS_OF_SUMMARY,
            self._program.steps_left,
        )

    def start(self) -> tuple[Any, int]:
        """Returns the state of the newest checkpoint, or else a new state, and its step."""
        latest = from_first(lambda: self._saved.latest)
        if latest is None:
            return self._program.initial_state(), 0
        if latest > self._plan.total_steps:
            raise UserError(
                f"{self._workdir} is at step {latest}, past the {self._plan.total_steps} steps of "
                f"config.num_epochs={self._plan.num_epochs}; give another --workdir"
            )
        arrays, carried = self._saved.restore(self._abstract, latest)
        self._check_fits(carried)
        if latest < self._plan.total_steps and carried.get("format") != _FORMAT:
            raise UserError(
                f"{self._workdir} holds a run of an earlier version, which had other random "
                "streams; it can be evaluated, but not continued; give another --workdir"
            )
        self._seconds_before = carried["seconds"]
        program, meters = self._program, carried.get("meters")
        self._monitor = Monitor(self._seeds, program.metrics, meters, program.task.metrics)
        return program.networks.restore(arrays), latest

    def _check_fits(self, carried: dict[str, Any]) -> None:
        names = list(self._program.dataset.class_names)
        for what, before, now in (
            ("images", carried["sizes"], self._program.sizes),
            ("classes", carried["class_names"], names),
        ):
            if before != now:
                raise UserError(
                    f"{self._workdir} holds a run on other {what}: it had {before}, and now there "
                    f"are {now}; give another --workdir"
                )

    def finished_summary(self, changes: list[str]) -> dict[str, Any] | None:
        """Returns the summary of a run that is already complete, if there is one."""
        path = self._workdir / "summary.json"
        summary = from_first(lambda: _read_summary(path, self._plan.total_steps))
        if summary is not None and is_first():
            for change in changes:
                print(f"not applied, because this run is complete: {change}")
            print(
                f"this run is complete, see {path}; for a new run, give another --workdir",
                flush=True,
            )
        return summary

    @contextlib.contextmanager
    def announced(self, step: int, changes: list[str], callback: Callback | None) -> Iterator[None]:
        """Writes the files that describe the run, opens its log and prints the introduction."""
        params = seeds.shapes_of_one(self._abstract.params, self._seeds)
        with contextlib.ExitStack() as stack:
            output = None
            if is_first():
                self._write_file(
                    "config.json", lambda path: write_config(path.parent, self._config)
                )
                table = parameter_table(params)
                self._write_file("parameters.txt", lambda path: write_text(path, table))
                fields = dict(leaves(config_as_json(self._config)))
                writer = make_writer(self._workdir, step, callback, fields)
                self._writer = stack.enter_context(contextlib.closing(writer))
            else:
                output = stack.enter_context(pathlib.Path(os.devnull).open("w"))
            self._progress = Progress(
                self._plan.total_steps,
                self._plan.steps_per_epoch,
                self._program.images_per_step,
                step,
                output,
                num_classes=self._program.dataset.num_classes,
                time_left=self._time_left,
            )
            stack.callback(self._progress.close)
            stack.callback(self._profiler.stop)
            for line in introduction(self._program, params, step, self._workdir):
                self._progress.say(line)
            for change in changes:
                self._progress.say(f"from step {step} on, {change}")
            yield

    def _write_file(self, name: str, write) -> None:
        self._lock.check()
        path = self._workdir / name
        persistently(lambda: write(path), str(path))

    def loop(self, state: Any, step: int) -> Any:
        """Trains to the end of the run; returns the final state.

        Raises:
            RunInterrupted: if the run was asked to stop, once its state is saved.
        """
        first_step, last_save = step, time.monotonic()
        compiled: set[tuple[int, int]] = set()  # stages and lengths of the dispatches so far
        for dispatch in itertools.count():
            if step == self._plan.total_steps:
                break
            before, num_steps = step, self._plan.num_steps(step)
            kind = self._plan.stage(step), num_steps
            compiles = contextlib.nullcontext()
            if kind not in compiled:
                self._monitor.stop_clock()
                compiles = self._progress.doing(self._program.compiling(step))
            else:
                self._profiler.start()
            with compiles:
                state, sums = self._program.train(state, step, num_steps)
            step += num_steps
            self._monitor.add(sums, num_steps * self._program.images_per_step)
            if profile := self._profiler.add(num_steps, sums):
                self._progress.say(f"profile of the steps up to {step}: {profile}")
            self._check_finite()
            self._saved.poll()
            if kind not in compiled:
                if kind[0] > max(compiled, default=kind)[0]:
                    self._monitor.new_clock()  # the images are larger
                compiled.add(kind)
                self._monitor.start_clock()
            if before == first_step:
                self._startup.stop()
                self._progress.say(f"first step done {self._startup}")
                self._write_images(step)
            stopping = self._interrupt.stop_after(dispatch)
            minutes = (time.monotonic() - last_save) / 60
            log, evaluate, save = self._plan.actions(before, step, minutes, stopping)
            if log or save:
                self._monitor.read()
                self._check_finite()
            if log:
                self._log(step)
            else:
                self._progress.update(
                    step, self._monitor.means(), self._monitor.stopwatch.images_per_second
                )
            if save:
                self._monitor.stop_clock()
                self._save(step, state, self._evaluate(state, step) if evaluate else None)
                last_save = time.monotonic()
                self._monitor.start_clock()
            if stopping and step < self._plan.total_steps:
                from_first(self._saved.wait)
                raise RunInterrupted(
                    f"stopped at step {step}; the same command continues from there"
                )
        self._monitor.stop_clock()
        return state

    def _check_finite(self) -> None:
        skips = self._config.on_nonfinite == "skip"
        self._monitor.check_finite(self._program.learning_rate, skips)

    def _log(self, step: int) -> None:
        """Shows and writes a row: the training metrics since the last row."""
        rows = self._monitor.finish_row()
        self._progress.log(step, seeds.mean(rows), self._monitor.stopwatch.images_per_second)
        row = seeds.named(rows, self._seeds)
        row["learning_rate"] = float(self._program.learning_rate(step - 1))
        if self._config.on_nonfinite == "skip":
            row["skipped"] = float(self._monitor.skipped)
        self._write_row(step, "train", row)

    def _evaluate(self, state: Any, step: int) -> dict[str, float]:
        """Evaluates on the split that chooses the best checkpoint; shows and writes the results."""
        split = self._program.selection
        begun = time.monotonic()
        with self._evaluating(split):
            totals = self._program.evaluated(state, split)
            results = self._program.results(totals, split)
        self._time_left.add_evaluation(time.monotonic() - begun)
        self._progress.say_results(step, split, results)
        row = seeds.named(results, self._seeds)
        self._write_row(step, split, row)
        if is_first() and (image := self._program.draw_results(totals, split)):
            self._writer.write_image(step, f"{split} images", png_of(image), *image.size)
        return row

    def _evaluating(self, split: str) -> contextlib.AbstractContextManager[None]:
        return self._progress.doing(f"evaluating on {split}", after=QUIET_SECONDS)

    def _evaluated(self, state: Any, split: str) -> list[dict[str, float]]:
        with self._evaluating(split):
            return self._program.evaluate(state, split)

    def _write_row(self, step: int, prefix: str, values: dict[str, float]) -> None:
        values = {f"{prefix}/{name}": x for name, x in values.items() if not np.isnan(x)}
        times = {
            "epoch": step / self._plan.steps_per_epoch,
            "seconds": self._seconds_before + self._startup.elapsed,
            "images_per_second": self._monitor.stopwatch.images_per_second,
        }
        values |= {f"{TIMES}{name}": x for name, x in times.items()}
        self._writer.write_scalars(step, values)

    def _write_images(self, step: int) -> None:
        """Writes some images of the next step to TensorBoard."""
        if is_first() and step < self._plan.total_steps:
            self._monitor.stop_clock()
            image = self._program.draw_inputs(step)
            self._writer.write_image(step, "training images", png_of(image), *image.size)
            self._monitor.start_clock()

    def _save(self, step: int, state: Any, results: dict[str, float] | None) -> None:
        carried = {
            "format": _FORMAT,
            "seconds": self._seconds_before + self._startup.elapsed,
            "meters": self._monitor.states(),
            "class_names": list(self._program.dataset.class_names),
            "sizes": self._program.sizes,
            "preparation": stored_preparation(self._config, self._program.dataset),
        }
        if is_first():
            self._lock.check()
            self._writer.sync()  # a checkpoint must not be saved before the rows that precede it
            self._saved.save(step, self._program.networks.save(state), carried, results)

    def summarise(self, state: Any) -> dict[str, Any]:
        """Evaluates the final and the best state on the test split; returns the summary."""
        step = self._plan.total_steps
        from_first(self._saved.wait)
        final = best = self._evaluated(state, "test")
        best_steps = from_first(lambda: self._saved.best)
        if set(best_steps) != {step}:
            arrays, best_steps = self._saved.restore_best(self._abstract)
            best = self._evaluated(self._program.networks.restore(arrays), "test")
        params = seeds.shapes_of_one(self._abstract.params, self._seeds)
        summary = {
            "model": self._config.model.name,
            "parameters": count_parameters(params),
            "dataset": self._program.dataset.name,
            "final": {"step": step, **seeds.mean(final)},
            "best": {"step": seeds.one_or_all(best_steps), **seeds.mean(best)},
            "best_chosen_on": self._program.selection,
            "seed": self._config.seed,
            "per_seed": [
                {"seed": seed, "final": {"step": step, **ours}, "best": {"step": at, **its_best}}
                for seed, ours, at, its_best in zip(
                    self._seeds, final, best_steps, best, strict=True
                )
            ],
            "steps": step,
            "seconds": round(self._seconds_before + self._startup.elapsed, 1),
            # None if the training was already complete and only the summary was missing.
            "images_per_second": round(self._monitor.stopwatch.images_per_second, 1) or None,
            "skipped": self._monitor.skipped,
            **environment(),
        }
        summary = from_first(lambda: self._write_summary(summary))
        for line in conclusion(self._program, final, best, best_steps):
            self._progress.say(line)
        self._progress.say(f"{summary['seconds']:.0f} s in total; results are in {self._workdir}")
        return summary

    def _write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        self._write_file("summary.json", lambda path: write_json(path, summary))
        return summary


def _read_summary(path: Path, steps: int) -> dict[str, Any] | None:
    """Returns the summary of a run of this many steps; None if it must be made again."""
    try:
        summary = json.loads(path.read_text())
        return summary if summary["steps"] == steps else None
    except (OSError, ValueError, KeyError, TypeError):  # missing or incomplete
        return None


if __name__ == "__main__":
    print("error: this is no command; python -m se_flax train is", file=sys.stderr)
    sys.exit(2)
