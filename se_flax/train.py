"""A training run, from a config to a trained network."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import orbax.checkpoint
from clu import parameter_overview
from ml_collections import ConfigDict

from se_flax.config import build_model, check_config, check_devices, check_held_in_memory
from se_flax.data import Dataset
from se_flax.data.from_config import dataset_of
from se_flax.data.in_memory import DeviceSplit
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.streaming import HostBatch, StreamedDataset, eval_batches, train_batches
from se_flax.errors import RunDiverged, UserError
from se_flax.optim import (
    learning_rate_schedule,
    make_optimizer,
    notes_on_schedule,
    peak_learning_rate,
)
from se_flax.pretrained import load_pretrained
from se_flax.pretrained.load import NewClassifier
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.runtime.distributed import check_same, from_first, is_first
from se_flax.runtime.interrupts import Interrupt
from se_flax.runtime.lock import WorkdirLock
from se_flax.runtime.progress import Meter, Progress, Startup, format_results
from se_flax.runtime.storage import persistently, write_json, write_text
from se_flax.runtime.writers import Writers, make_writer
from se_flax.state import TrainState, create_state, replicate, share_out
from se_flax.steps import (
    AXIS,
    Metrics,
    batch_slots,
    evaluate_batches,
    evaluate_split,
    make_eval_step,
    make_train_step,
    pmap_eval,
    pmap_eval_images,
    pmap_train,
    pmap_train_images,
)
from se_flax.workdir import changed_fields, check_same_run, config_as_json, write_config

# With config.on_nonfinite="skip", so many updates left out in a row are the end of a run.
_MOST_SKIPPED = 100


class RunInterrupted(Exception):
    """The run was asked to stop and has saved its state."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What a config and its data set make: the data on the devices and the compiled steps.

    Attributes:
        sizes: number of images by name of the split.
        selection: the split on which the best checkpoint is chosen: held-out images where
            there are any, so that its accuracy on the test split is an honest one.
        steps_per_epoch, total_steps: length of an epoch and of the run, in steps.
        steps_per_dispatch: how many of them the devices are given at once.
        learning_rate: as a function of the step.
        seeds: of the networks that are trained.
        initial_state: makes the state a run begins with; of several seeds, with an axis for
            them, as all that the functions below take and return.
        train: `train(state, step, num_steps)` returns the new state and the metrics; the old
            state, of that step, is donated.
        evaluate: `evaluate(state, split_name)` returns loss and top-1/3/5 (`Metrics.means`).
        close: ends what reads images ahead.
    """

    sizes: dict[str, int]
    selection: str
    steps_per_epoch: int
    total_steps: int
    steps_per_dispatch: int
    learning_rate: optax.Schedule
    seeds: range
    initial_state: Callable[[], TrainState]
    train: Callable[[TrainState, int, int], tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState, str], dict[str, Any]]
    close: Callable[[], None]


def build_program(config: ConfigDict, dataset: Dataset | StreamedDataset) -> Program:
    """Returns what it takes to run a config on a data set; compiles nothing yet.

    Raises:
        UserError: if the seeds cannot be trained as `config.seed_mode` says, or the run is longer
            than can be counted.
    """
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    splits = {name: split for name, split in splits.items() if split is not None}
    steps_per_epoch = max(1, round(len(dataset.train) / config.batch_size))
    model = build_model(config, dataset.num_classes, AXIS if config.sync_batch_norm else None)
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    learning_rate = learning_rate_schedule(
        config.schedule, peak, config.num_epochs, steps_per_epoch
    )
    optimizer = make_optimizer(config.optimizer, learning_rate, config.freeze_body)
    train_step = make_train_step(model, optimizer, config)
    eval_step = make_eval_step(model)

    def state_of(seed):
        return create_state(model, optimizer, dataset.image_shape, seed, config.ema_decay > 0)

    seeds = range(config.seed, config.seed + config.num_seeds)

    @jax.jit  # traced once, for its shapes and to be run
    def initial_state():
        if config.num_seeds == 1:
            return state_of(config.seed)
        return jax.vmap(state_of)(np.array(seeds, np.uint32))

    total_steps = config.num_epochs * steps_per_epoch
    if total_steps * config.batch_size >= 2**31:
        raise UserError(
            f"config.num_epochs={config.num_epochs} makes a run of "
            f"{total_steps * config.batch_size:,} images, more than can be counted (2147483647)"
        )
    if isinstance(dataset, Dataset):
        train, evaluate, close = _in_memory(config, dataset, splits, train_step, eval_step)
        steps_per_dispatch = config.steps_per_dispatch
        steps_per_dispatch = steps_per_dispatch or default_steps_per_dispatch(steps_per_epoch)
    else:
        if config.num_seeds > 1 and config.seed_mode == "vmap":
            raise UserError(
                f"{dataset.name} is read image by image, so that its seeds cannot be computed at "
                'once; use config.seed_mode="in_turn"'
            )
        train, evaluate, close = _streamed(
            config, dataset, splits, total_steps, train_step, eval_step
        )
        steps_per_dispatch = 1
    return Program(
        sizes={name: len(split) for name, split in splits.items()},
        selection="validation" if "validation" in splits else "test",
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        steps_per_dispatch=steps_per_dispatch,
        learning_rate=learning_rate,
        seeds=seeds,
        initial_state=initial_state,
        train=train,
        evaluate=evaluate,
        close=close,
    )


def _in_memory(config, dataset, splits, train_step, eval_step):
    """Returns `train`, `evaluate` and `close` of a `Program` whose data are on the devices."""
    preprocessing = Preprocessing.of_config(dataset, config)
    splits = {name: replicate(DeviceSplit.of(split)) for name, split in splits.items()}
    at_once = config.seed_mode == "vmap"
    if config.seed_mode == "auto":  # XLA's grouped convolutions are slow on a CPU
        at_once = jax.default_backend() != "cpu"
    at_once = at_once and config.num_seeds > 1
    places = (None,) if at_once else _places(config)
    train_steps = pmap_train(train_step, preprocessing, config.batch_size, at_once)
    eval_step = pmap_eval(eval_step, preprocessing, at_once)
    slots = batch_slots(config.batch_size)

    def train(state, step, num_steps):
        metrics = []
        for place in places:
            state, metrics_there = train_steps(state, splits["train"], slots, place, num_steps)
            metrics.append(metrics_there)
        return state, metrics[0] if places[0] is None else Metrics.stack(metrics)

    def evaluate(state, split):
        return evaluate_split(
            eval_step, state.variables, splits[split], config.eval_batch_size, places
        )

    return train, evaluate, lambda: None


def _streamed(config, dataset, splits, total_steps, train_step, eval_step):
    """Returns `train`, `evaluate` and `close` of a `Program` whose data are read meanwhile."""
    preprocessing = Preprocessing.of_config(dataset, config)
    train_images = pmap_train_images(train_step, preprocessing)
    eval_images = pmap_eval_images(eval_step, preprocessing)
    devices = jax.device_count()
    eval_batch_size = -(-config.eval_batch_size // devices) * devices
    places = _places(config)
    streams = [
        TrainStream(
            lambda step, seed=config.seed + (place or 0): train_batches(
                dataset.train,
                dataset.train_crop,
                config.batch_size,
                seed,
                step,
                total_steps,
                dataset.workers,
                config.num_seeds,
            )
        )
        for place in places
    ]

    def train(state, step, num_steps):
        metrics = []
        for place, stream in zip(places, streams, strict=True):
            images, labels, positions, _ = stream.batch(step)
            state, metrics_there = train_images(state, images, labels, positions, place)
            metrics.append(metrics_there)
            stream.read(step + 1)  # while the devices compute
        return state, metrics[0] if places[0] is None else Metrics.stack(metrics)

    def evaluate(state, split):
        batches = eval_batches(splits[split], dataset.eval_crop, eval_batch_size, dataset.workers)
        return evaluate_batches(eval_images, state.variables, batches, places)

    def close():
        for stream in streams:
            stream.close()

    return train, evaluate, close


def _places(config: ConfigDict) -> tuple[int | None, ...]:
    """Returns the places of the axis of seeds to take in turn; None for a state without one."""
    return (None,) if config.num_seeds == 1 else tuple(range(config.num_seeds))


class TrainStream:
    """Batches on the devices, one ahead of the step that is computed.

    Args:
        batches_from: `batches_from(step)` yields the host's batches from a step on.
    """

    def __init__(self, batches_from: Callable[[int], Iterator[HostBatch]]):
        self._batches_from = batches_from
        self._batches = None
        self._ahead: tuple[int, Any] | None = None

    def batch(self, step: int) -> tuple[jax.Array, ...]:
        """Returns the arrays of a step's batch (see `HostBatch.on_devices`)."""
        if self._ahead is None or self._ahead[0] != step:
            self.close()
            self._batches = self._batches_from(step)
            self.read(step)
        return self._ahead[1]

    def read(self, step: int) -> None:
        """Copies the batch of the next step to the devices, if there is one."""
        batch = next(self._batches, None)
        self._ahead = None if batch is None else (step, share_out(batch.on_devices()))

    def close(self) -> None:
        """Stops reading."""
        if self._batches is not None:
            self._batches.close()


def train(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    dataset: Dataset | StreamedDataset | None = None,
) -> dict[str, Any]:
    """Trains a network, going on from the newest checkpoint in the workdir if there is one.

    Killed at any moment and called again, a run ends in the parameters it would have ended in
    undisturbed, to the bit, on the same hardware. A run of several processes calls it in each;
    the first one alone reads and writes the workdir.

    Args:
        config: see `se_flax.config.default_config`.
        workdir: where config.json, checkpoints, TensorBoard events, metrics.jsonl,
            parameters.txt and summary.json go.
        dataset: what to train on, instead of reading what `config.dataset.name` names.

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
    config = config.copy_and_resolve_references()
    workdir = pathlib.Path(workdir).expanduser()
    if dataset is not None:
        config.dataset.name = dataset.name
    check_config(config, names_dataset=dataset is None)
    check_devices(config, jax.device_count())
    check_same("config", config_as_json(config))
    changes = from_first(lambda: _changes(workdir, config))
    with startup.reading_data():
        if dataset is None:
            dataset = dataset_of(config)
        if config.validation_fraction:
            dataset = dataset.hold_out(config.validation_fraction)
    if isinstance(dataset, Dataset):
        check_held_in_memory(config, dataset.name)
    program = build_program(config, dataset)
    check_same("data set", [program.sizes, list(dataset.class_names)])

    with contextlib.ExitStack() as stack:
        counting = stack.enter_context(contextlib.ExitStack())
        counting.enter_context(startup)
        abstract_state = abstract_initial_state(program)
        stack.callback(program.close)
        interrupt = stack.enter_context(Interrupt())
        if is_first():
            lock = WorkdirLock(workdir)
        from_first(lambda: stack.enter_context(lock) and None)
        saved = stack.enter_context(Checkpoints(workdir, top1_names(program.seeds)))
        latest = from_first(lambda: saved.latest)
        if latest is None:
            state = program.initial_state()
            if config.init_from:
                state = with_published_weights(state, config, dataset.num_classes)
            state = replicate(state)
            seconds, sums = 0.0, None
        else:
            state, carried = saved.restore(abstract_state, latest)
            state = replicate(state)
            seconds, sums = carried["seconds"], carried["sums"]
            if carried["sizes"] != program.sizes:
                raise UserError(
                    f"{workdir} holds a run on other images: it had {carried['sizes']}, there are "
                    f"now {program.sizes}; give another --workdir"
                )
            if carried["class_names"] != list(dataset.class_names):
                raise UserError(
                    f"{workdir} holds a run on other classes: it had {carried['class_names']}, "
                    f"there are now {list(dataset.class_names)}; give another --workdir"
                )
        first_step = state.host_step
        summary_path = workdir / "summary.json"
        if first_step > program.total_steps:
            raise UserError(
                f"{workdir} is at step {first_step}, past the {program.total_steps} steps of "
                f"config.num_epochs={config.num_epochs}; give another --workdir"
            )
        if first_step == program.total_steps:
            summary = from_first(lambda: _read_summary(summary_path, first_step))
            if summary is not None:
                for change in changes:
                    _say(f"not applied, because this run is complete: {change}")
                _say(
                    f"this run is complete, see {summary_path}; for another, give another --workdir"
                )
                return summary

        params = _one_network(state.params, program)
        writer, output = Writers(), None
        if is_first():
            persistently(lambda: write_config(workdir, config), f"{workdir}/config.json")
            overview = parameter_overview.get_parameter_overview(params, include_stats=False)
            path = workdir / "parameters.txt"
            persistently(lambda: write_text(path, overview + "\n"), str(path))
            writer = stack.enter_context(contextlib.closing(make_writer(workdir, first_step)))
        else:
            output = stack.enter_context(pathlib.Path(os.devnull).open("w"))
        images_per_step = config.batch_size * config.num_seeds
        progress = stack.enter_context(
            contextlib.closing(
                Progress(
                    program.total_steps,
                    program.steps_per_epoch,
                    images_per_step,
                    first_step,
                    output,
                )
            )
        )
        for line in introduction(config, dataset, program, state, workdir):
            progress.say(line)
        for change in changes:
            progress.say(f"from step {first_step} on, {change}")
        meter = Meter(sums)

        def save(results=None):
            elapsed = seconds + time.perf_counter() - startup.begun
            carried = {
                "seconds": elapsed,
                "sums": meter.sums(),
                "class_names": list(dataset.class_names),
                "sizes": program.sizes,
            }
            writer.sync()  # a checkpoint is of rows that are there
            results = results and over_seeds(results, program.seeds)
            saved.save(state.host_step, state, carried, results)

        step, last_save = first_step, time.monotonic()
        for dispatch in itertools.count():
            if step == program.total_steps:
                break
            epoch = step // program.steps_per_epoch + 1
            epoch_end = epoch * program.steps_per_epoch
            num_steps = min(program.steps_per_dispatch, epoch_end - step)
            state, metrics = program.train(state, step, num_steps)
            meter.add(metrics, num_steps * images_per_step)
            check_finite(meter, program, config)
            saved.poll()
            if step == first_step:
                meter.start_clock()  # what came before was compilation
                counting.close()
                progress.say(f"first step done {startup}")
            logs_before, step = step // config.log_every_steps, step + num_steps
            progress.update(step, meter.means(), meter.images_per_second)

            log_now = step // config.log_every_steps > logs_before or step == epoch_end
            minutes = (time.monotonic() - last_save) / 60
            stopping = interrupt.stop_after(dispatch)
            finished = step == program.total_steps
            evaluates = finished or (step == epoch_end and epoch % config.eval_every_epochs == 0)
            saves = (
                evaluates or stopping or (log_now and minutes >= config.checkpoint_every_minutes)
            )
            if log_now or saves:
                meter.read()
                check_finite(meter, program, config)
            if log_now:
                row = meter.finish_row()
                progress.log(step, row, meter.images_per_second)
                row = over_seeds(row, program.seeds)
                row["learning_rate"] = float(program.learning_rate(step - 1))
                if config.on_nonfinite == "skip":
                    row["skipped"] = float(np.sum(meter.skipped))
                _write(writer, step, "train", row)
            if saves:
                meter.stop_clock()
                results = None
                if evaluates:
                    results = program.evaluate(state, program.selection)
                    progress.say_results(step, program.selection, results)
                    _write(writer, step, program.selection, over_seeds(results, program.seeds))
                save(results)
                last_save = time.monotonic()
                meter.start_clock()
            if stopping and not finished:
                from_first(saved.wait)
                raise RunInterrupted(f"stopped at step {step}; the same command goes on from there")
        meter.stop_clock()

        from_first(saved.wait)
        final = best = program.evaluate(state, "test")
        best_steps = from_first(lambda: saved.best)
        if set(best_steps) != {step}:
            best_state, best_steps = saved.restore_best(abstract_state)
            best = program.evaluate(replicate(best_state), "test")
        summary = {
            "model": config.model.name,
            "parameters": int(parameter_overview.count_parameters(params)),
            "dataset": dataset.name,
            "final": {"step": step, **mean_over_seeds(final)},
            "best": {"step": one_or_all(best_steps), **mean_over_seeds(best)},
            "best_chosen_on": program.selection,
            "seed": config.seed,
            "per_seed": [
                {
                    "seed": seed,
                    "final": {"step": step, **of_seed(final, place)},
                    "best": {"step": best_steps[place], **of_seed(best, place)},
                }
                for place, seed in enumerate(program.seeds)
            ],
            "steps": step,
            "seconds": round(seconds + time.perf_counter() - startup.begun, 1),
            # None of a run that was complete but for this summary.
            "images_per_second": round(meter.images_per_second, 1) or None,
            "skipped": int(np.sum(meter.skipped)),
            **environment(),
        }

        def finish():
            persistently(lambda: write_json(summary_path, summary), str(summary_path))
            return summary

        summary = from_first(finish)
        progress.say(format_results(f"final (step {step}) on test", final))
        progress.say(
            format_results(
                f"best on {program.selection} (step {one_or_all(best_steps)}) on test", best
            )
        )
        progress.say(f"{summary['seconds']:.0f} s in all; results are in {workdir}")
        return summary


def check_finite(meter: Meter, program: Program, config: ConfigDict) -> None:
    """Checks what the meter has read of updates that were left out, being not finite.

    Raises:
        RunDiverged: if there was one, unless `config.on_nonfinite` says to go on; or if there were
            many and none between them that was not left out.
    """
    skips = config.on_nonfinite == "skip"
    if skips:
        first, diverged = meter.first_in_a_row, meter.skipped_in_a_row >= _MOST_SKIPPED
    else:
        first = meter.first_skipped
        diverged = ~np.isnan(first[:, 0])
    for place in np.flatnonzero(diverged):
        seed, (step, loss, norm) = program.seeds[place], first[place]
        seed_of = f" of seed {seed}" if len(program.seeds) > 1 else ""
        rate = float(program.learning_rate(int(step)))
        advice = 'leave such updates out by config.on_nonfinite="skip"'
        if skips:
            advice = f"see why none of {_MOST_SKIPPED} updates from there on was finite"
        raise RunDiverged(
            f"training has diverged at step {int(step) + 1}{seed_of}: loss {loss:g}, gradient norm "
            f"{norm:g}, learning rate {rate:g}; earlier checkpoints are kept; use a lower "
            "config.optimizer.learning_rate, a longer config.schedule.warmup_epochs or "
            f"config.optimizer.clip_norm, or {advice}"
        )


def _changes(workdir: pathlib.Path, config: ConfigDict) -> list[str]:
    """Returns what a config changes of the workdir's run; raises `UserError` if it may not."""
    check_same_run(workdir, config)
    return changed_fields(workdir, config)


def _read_summary(path: pathlib.Path, steps: int) -> dict[str, Any] | None:
    """Returns the summary of a run of so many steps, or None: then it is made again."""
    try:
        summary = json.loads(path.read_text())
        return summary if summary["steps"] == steps else None
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not whole
        return None


def _say(line: str) -> None:
    if is_first():
        print(line, flush=True)


def with_published_weights(state: TrainState, config: ConfigDict, num_classes: int) -> TrainState:
    """Returns an initial state whose network begins with the weights of `config.init_from`.

    The classifier stays as initialised where the weights are for another number of classes.

    Raises:
        UserError: if the weights cannot be read or are not the network's.
    """
    overrides = config.model.overrides.to_dict()
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NewClassifier)
        variables = load_pretrained(
            config.model.name, config.init_from, num_classes=num_classes, **overrides
        )
    if config.num_seeds > 1:
        variables = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (config.num_seeds, *x.shape)), variables
        )
    params = dict(variables["params"])
    for note in notes:
        print(note.message)
        for name in [name for name in params if name.endswith("classifier")]:
            params[name] = state.params[name]
    variables = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    average = None if state.ema is None else jax.tree.map(jnp.copy, variables)
    return state.replace(**variables, ema=average)


def abstract_initial_state(program: Program) -> TrainState:
    """Returns shapes and types of the state; raises `UserError` if the network has none."""
    try:
        return jax.eval_shape(program.initial_state)
    except (TypeError, ValueError, AttributeError, flax.errors.FlaxError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            "the network cannot be built; look at config.model.overrides and at the size of the "
            f"images: {reason}"
        ) from error


def default_steps_per_dispatch(steps_per_epoch: int) -> int:
    """Returns how many steps to give the device at once.

    One on a CPU, where XLA runs convolutions inside a loop many times slower. Elsewhere enough
    to hide the host's work, and a divisor of the epoch where there is one, so that only one
    program needs compiling.
    """
    if jax.default_backend() == "cpu":
        return 1
    divisors = [n for n in range(16, 129) if steps_per_epoch % n == 0]
    return max(divisors, default=64)


def introduction(
    config: ConfigDict,
    dataset: Dataset | StreamedDataset,
    program: Program,
    state: TrainState,
    workdir: pathlib.Path,
) -> Iterator[str]:
    """Yields the lines that tell what is about to run."""
    sizes: dict[str, int] = {}
    for name, subtree in _one_network(state.params, program).items():
        part = name.split("_")[0]
        sizes[part] = sizes.get(part, 0) + parameter_overview.count_parameters(subtree)
    yield f"{config.model.name}, {config.dtype}, {sum(sizes.values()):,} parameters"
    for part, size in sizes.items():
        yield f"  {part:<20}{size:>12,}"
    counts = ", ".join(f"{size:,} {name}" for name, size in program.sizes.items())
    height, width = dataset.image_shape[:2]
    yield f"{dataset.name}: {counts} images of {height}x{width}, {dataset.num_classes} classes"
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    yield (
        f"{config.num_epochs} epochs, {program.total_steps:,} steps of {config.batch_size} images "
        f"on {devices}"
    )
    for note in notes_on_schedule(config.schedule, config.num_epochs):
        yield f"note: {note}"
    if len(program.seeds) > 1:
        yield f"{len(program.seeds)} networks, of seeds {program.seeds[0]} to {program.seeds[-1]}"
    if state.host_step:
        yield f"going on from step {state.host_step} in {workdir}"
    else:
        yield f"begins with {config.init_from or 'random weights'}; results go to {workdir}"


def environment() -> dict[str, Any]:
    """Returns what a result depends on besides its config: device, versions, revision."""
    modules = (jax, jaxlib, flax, optax, orbax.checkpoint, np)
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in modules},
        },
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """Returns the commit of the source, "+" if changed since; None outside its repository."""
    root = pathlib.Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        output = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None
    return output.strip()


def mean_over_seeds(values: dict[str, Any]) -> dict[str, float]:
    """Returns the mean over all seeds of each value."""
    return {name: float(np.mean(value)) for name, value in values.items()}


def of_seed(values: dict[str, Any], place: int) -> dict[str, float]:
    """Returns each value of the seed at a place."""
    return {name: float(np.atleast_1d(value)[place]) for name, value in values.items()}


def over_seeds(values: dict[str, Any], seeds: Sequence[int]) -> dict[str, float]:
    """Returns the mean over the seeds of each value and, if there are several, each seed's.

    Those are called "seed0/top1" beside the mean's "top1".
    """
    named = mean_over_seeds(values)
    if len(seeds) > 1:
        for place, seed in enumerate(seeds):
            named |= {f"seed{seed}/{name}": x for name, x in of_seed(values, place).items()}
    return named


def top1_names(seeds: Sequence[int]) -> tuple[str, ...]:
    """Returns the name of each seed's top-1 accuracy, as `over_seeds` gives it."""
    return tuple(f"seed{seed}/top1" for seed in seeds) if len(seeds) > 1 else ("top1",)


def _one_network(params: Any, program: Program) -> Any:
    """Returns the shapes of one network's parameters."""
    shapes = jax.eval_shape(lambda: params)
    if len(program.seeds) == 1:
        return shapes
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)


def one_or_all(steps: list[int]) -> int | list[int]:
    """Returns the step of the only seed, or those of all."""
    return steps[0] if len(steps) == 1 else steps


def _write(writer, step: int, prefix: str, values: dict[str, float]) -> None:
    scalars = {f"{prefix}/{key}": value for key, value in values.items() if not np.isnan(value)}
    writer.write_scalars(step, scalars)
