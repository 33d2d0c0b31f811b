"""Checkpoints of a run: the latest and the best are kept, and saving does not hold it up.

A run's `workdir/checkpoints` holds one folder a step, each with the `TrainState`, what is
known of the run's progress, and, where it was evaluated, its metrics. A digest of all of these is
saved with them: what is read back is what was saved, or it is told as damaged.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import operator
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from se_flax.config import leaves, modernized
from se_flax.errors import StorageError, UserError
from se_flax.parallel import replicate
from se_flax.runtime.distributed import arrays_from_first, from_first, is_first
from se_flax.runtime.storage import persistently, reason_of, sync, write_json
from se_flax.state import TrainState

# A checkpoint continues a run only if these are what they were when it was begun.
_FIXED = (
    "model.name",
    "model.overrides",
    "dataset.name",
    "dataset.image_dir",
    "dataset.image_size",
    "validation_fraction",
    "batch_size",
    "optimizer.name",
    "seed",
    "num_seeds",
)
_SET_ASIDE = "damaged_checkpoints"
_REMOVED = "removed"
# Errors of reading that may pass, or that say nothing of what is in a file.
_NOT_OF_CONTENT = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_NOT_OF_CONTENT += (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
_NOT_OF_CONTENT += (errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNRESET)


class CheckpointDamaged(UserError):
    """A checkpoint is not what was saved."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was saved at a step.

    Attributes:
        arrays: of the state, by the names of its parts: "params/classifier/bias".
        progress: plain values that were kept beside it.
        metrics: what its evaluation gave, or None if it was not evaluated.
    """

    arrays: dict[str, np.ndarray]
    progress: dict[str, Any]
    metrics: dict[str, float] | None

    def digest(self) -> str:
        """Returns a digest (SHA-256) of everything."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        digest.update(json.dumps([self.progress, self.metrics], sort_keys=True).encode())
        return digest.hexdigest()

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Checkpoint":
        """Reads a checkpoint from its folder.

        Raises:
            CheckpointDamaged: if it is not what was saved.
            UserError: if it cannot be read for another reason.
        """
        try:
            # Without the handler's own view of the network: whether it fits is another question.
            found = ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(), multiprocessing_options=_first_alone()
            ).restore(
                folder.absolute(),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
                ),
            )
            kept = found.progress
            metrics_file = folder / "metrics" / "metrics"
            metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else None
            read = cls(_named_arrays(found.state), kept["run"], metrics)
            if read.digest() != kept["sha256"]:
                raise ValueError("its content is not what was saved")
        except Exception as error:  # Orbax and TensorStore raise many kinds
            if _is_denied(error):
                raise UserError(f"cannot read {folder}: {reason_of(error)}") from error
            reason = reason_of(error)
            raise CheckpointDamaged(f"the checkpoint {folder} is damaged ({reason})") from error
        return read


def _is_denied(error: Exception) -> bool:
    """Whether reading failed not for what is in the files."""
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, OSError | MemoryError) and not isinstance(error, missing):
        return True
    # TensorStore tells what the system said in words.
    return any(os.strerror(number) in str(error) for number in _NOT_OF_CONTENT)


def _first_alone() -> ocp.options.MultiprocessingOptions:
    """Returns what tells Orbax that only the first process of a run reads and writes."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def _named_arrays(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@dataclasses.dataclass(frozen=True)
class _Save:
    """What is being saved, and its first try."""

    step: int
    saved: Checkpoint
    state: TrainState
    writing: concurrent.futures.Future[None]


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Leaves notices of preemption, which are counted as they are asked for, to the run."""
        return False


class Checkpoints:
    """The checkpoints under a run's workdir.

    In a run of several processes the first one reads and writes, and sends the others what it
    read. As a context they are closed in the end, after a KeyboardInterrupt without waiting.

    Args:
        workdir: the run's folder; made if it does not exist, unless `read_only`.
        seeds: of the run. Of several, the best checkpoint of each is kept.
        read_only: never write nor move anything. A damaged checkpoint is then an error where it
            is asked for, or where it is not known whether it is the best or the latest.

    Raises:
        UserError: if there were checkpoints and all are damaged.
    """

    def __init__(self, workdir: pathlib.Path, seeds: Sequence[int] = (0,), read_only: bool = False):
        self._workdir = workdir
        self._folder = (workdir / "checkpoints").absolute()
        self._read_only = read_only
        self._top1_names = ["top1"]
        if len(seeds) > 1:
            self._top1_names = [f"seed{seed}/top1" for seed in seeds]
        self._metrics: dict[int, dict[str, float] | None] = {}
        self._damaged: list[CheckpointDamaged] = []
        self._read_already: dict[int, Checkpoint] = {}
        self._manager: _Manager | None = None
        self._pending: _Save | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1)
        if read_only:
            self._verify()
        else:
            from_first(self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._background.shutdown(wait=False, cancel_futures=True)
        else:
            self.close()

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._verify()
        if not self._metrics and any((self._workdir / _SET_ASIDE).glob("*")):
            raise UserError(
                f"all checkpoints of {self._workdir} are damaged and were moved to "
                f"{self._workdir / _SET_ASIDE}; give another --workdir, or remove that folder to "
                "start this run over"
            )
        status = self._folder.stat()
        self._identity = status.st_dev, status.st_ino
        shutil.rmtree(self._folder / _REMOVED, ignore_errors=True)
        self._manager = self._make_manager()

    def _make_manager(self) -> _Manager:
        policies = ocp.checkpoint_managers
        best = [
            policies.BestN(
                get_metric_fn=operator.itemgetter(name),
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            for name in self._top1_names
        ]
        return _Manager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=operator.itemgetter("top1"),
                # The one before the latest, too, lest that one is damaged.
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), *best]),
                # By renaming first: what is being removed is never taken for a damaged checkpoint.
                todelete_subdir=_REMOVED,
                cleanup_tmp_directories=True,
                create=False,
                # Orbax's own background threads wait for minutes for one of them that failed.
                enable_async_checkpointing=False,
                multiprocessing_options=_first_alone(),
            ),
        )

    def _on_disk(self) -> list[int]:
        """Returns the steps of which there is a checkpoint, damaged or not."""
        return sorted(int(path.name) for path in self._folder.glob("*") if path.name.isdigit())

    def _verify(self) -> None:
        """Reads all checkpoints; moves damaged ones away, unless `read_only`."""
        for step in self._on_disk():
            found = self._read_or_put_aside(step)
            if found is not None:
                self._metrics[step], self._read_already = found.metrics, {step: found}

    def _read_or_put_aside(self, step: int) -> Checkpoint | None:
        """Returns a checkpoint; moves it away if it is damaged, unless `read_only`."""
        try:
            return Checkpoint.read(self._folder / str(step))
        except CheckpointDamaged as error:
            if not (self._folder / str(step)).exists():  # a run has removed it meanwhile
                return None
            self._metrics.pop(step, None)
            self._damaged.append(error)
            if not self._read_only:
                target = self._workdir / _SET_ASIDE / str(step)
                for copy in itertools.count(1):
                    if not target.exists():
                        break
                    target = target.with_name(f"{step}_{copy}")
                persistently(lambda: self._move(step, target), str(target))
                print(f"{error}; it was moved to {target}", file=sys.stderr, flush=True)
            return None

    def _move(self, step: int, target: pathlib.Path) -> None:
        target.parent.mkdir(exist_ok=True)
        (self._folder / str(step)).rename(target)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        self._check_damage()
        return max(self.steps, default=None)

    @property
    def best(self) -> list[int]:
        """The step of the evaluated checkpoint of highest top-1, of each seed; empty if none."""
        self._check_damage()
        evaluated = [step for step in self.steps if self._metrics.get(step) is not None]
        return [
            max(evaluated, key=lambda step, name=name: (self._metrics[step][name], step))
            for name in self._top1_names
            if evaluated
        ]

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in increasing order."""
        return [step for step in self._on_disk() if self._read_only or step in self._metrics]

    def _check_damage(self) -> None:
        if self._read_only and self._damaged:
            raise UserError(
                f"{self._damaged[0]}; choose another by its step, or start the run again, which "
                "sets it aside"
            )

    def save(
        self,
        step: int,
        state: TrainState,
        progress: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves the state in the background.

        Args:
            state: what to save; its arrays are copied before this returns.
            progress: plain values to keep beside it.
            metrics: what its evaluation gave, if it was evaluated.

        Raises:
            StorageError: if this or the save before it cannot be written, after several tries.
        """
        if not is_first():
            return
        self.wait()
        state = jax.tree.map(np.array, jax.device_get(state))  # not of memory JAX will reuse
        saved = Checkpoint(_named_arrays(state), progress, metrics)
        writing = self._background.submit(self._write, step, saved, state)
        self._pending = _Save(step, saved, state, writing)

    def poll(self) -> None:
        """Sees to a save in the background that has ended; waits only if it has failed.

        Raises:
            StorageError: if it cannot be written after several tries either.
        """
        if self._pending and self._pending.writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            StorageError: if it cannot be written, after several tries.
        """
        if self._pending is None:
            return
        save = self._pending

        def write_again():
            self._close_manager()
            self._manager = self._make_manager()
            if (self._folder / str(save.step)).exists():  # what failed came after it
                _sync(self._folder / str(save.step))
            else:
                self._write(save.step, save.saved, save.state)

        tries = itertools.chain([save.writing.result], itertools.repeat(write_again))
        what = f"the checkpoint of step {save.step} to {self._folder}"
        try:
            # Orbax and TensorStore raise many kinds.
            persistently(lambda: next(tries)(), what, (Exception,))
        except Exception:
            self._pending = None
            raise
        self._metrics[save.step], self._pending = save.saved.metrics, None
        shutil.rmtree(self._folder / _REMOVED, ignore_errors=True)

    def _write(self, step: int, saved: Checkpoint, state: TrainState) -> None:
        self._check_folder()
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave({"run": saved.progress, "sha256": saved.digest()}),
            ),
            metrics=saved.metrics,
            force=True,
        )
        try:
            self._check_folder()
        except OSError:  # it was moved meanwhile, and this was made in its place
            shutil.rmtree(self._folder / str(step), ignore_errors=True)
            raise
        _sync(self._folder / str(step))

    def _check_folder(self) -> None:
        """Raises `OSError` if the folder is not the one of the start."""
        status = self._folder.stat()
        if self._identity != (status.st_dev, status.st_ino):
            raise FileNotFoundError(2, os.strerror(2), str(self._folder))

    def restore(self, abstract_state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the progress saved at a step.

        Args:
            abstract_state: the state's shapes and types.

        Returns:
            The state on all local devices, and the progress.

        Raises:
            CheckpointDamaged: if it is not what was saved.
            UserError: if the checkpoint holds the state of another network or optimiser.
        """
        arrays, progress = self._read(_named_arrays(abstract_state), step)
        return _on_devices(abstract_state, arrays), progress

    def _read(
        self, abstract: Mapping[str, jax.ShapeDtypeStruct], step: int
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays and the progress saved at a step, on all processes."""
        found = None

        def read():
            nonlocal found
            found = self._read_already.pop(step, None)
            found = found or Checkpoint.read(self._folder / str(step))
            self._check_fits(found.arrays, abstract, step)
            return found.progress

        progress = from_first(read)
        return arrays_from_first(found and found.arrays, abstract), progress

    def _check_fits(self, arrays, abstract, step) -> None:
        said = f"the checkpoint of step {step} in {self._folder} does not fit this config: it has"
        for name in sorted(arrays.keys() | abstract.keys()):
            if name not in abstract:
                raise UserError(f"{said} {name}, of which this config makes nothing")
            if name not in arrays:
                raise UserError(f"{said} no {name}")
            old, new = arrays[name], abstract[name]
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise UserError(
                    f"{said} {name} {old.dtype} {list(old.shape)}, not {new.dtype} "
                    f"{list(new.shape)}"
                )

    def restore_best(self, abstract_state: TrainState) -> tuple[TrainState, list[int]]:
        """Returns the state of each seed from its `best` step, and these steps.

        For the arguments, see `restore`. Where a best one turns out to be damaged, it is the best
        of the others.

        Raises:
            UserError: if none is left, or they do not fit.
        """
        steps = from_first(self._read_best)
        abstract = _named_arrays(abstract_state)
        arrays = {step: self._read(abstract, step)[0] for step in sorted(set(steps))}
        chosen = arrays[steps[0]]
        if len(set(steps)) > 1:
            chosen = {
                name: np.stack([arrays[step][name][place] for place, step in enumerate(steps)])
                for name in abstract
            }
        return _on_devices(abstract_state, chosen), steps

    def _read_best(self) -> list[int]:
        """Reads the best checkpoints, and returns their steps."""
        self._read_already = {}
        while steps := self.best:
            found = {step: self._read_or_put_aside(step) for step in set(steps)}
            if all(found.values()):
                self._read_already = found
                return steps
        raise UserError(f"{self._workdir} has no checkpoint that was evaluated")

    def progress(self, step: int) -> dict[str, Any]:
        """Returns the plain values that were saved beside the state of a step."""
        return Checkpoint.read(self._folder / str(step)).progress

    def close(self) -> None:
        """Waits until everything is on disk, and tells if it cannot be written."""
        try:
            self.wait()
        except StorageError as error:
            print(error, file=sys.stderr, flush=True)
        self._background.shutdown()
        if self._manager is not None:
            self._close_manager()

    def _close_manager(self) -> None:
        with contextlib.suppress(Exception):  # what matters was raised when it was saved
            self._manager.close()


def _sync(folder: pathlib.Path) -> None:
    """Waits until a power cut would take nothing of a folder. Orbax does so of arrays only."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)


def _on_devices(abstract_state: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """Returns a state of arrays by name, on all local devices."""
    leaves = [arrays[name] for name in _named_arrays(abstract_state)]
    return replicate(jax.tree.unflatten(jax.tree.structure(abstract_state), leaves))


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes `config.json`."""
    write_json(workdir / "config.json", config_as_json(config))


def config_as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config's fields as plain values."""
    return json.loads(config.to_json_best_effort())


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Returns the config of a run from its `config.json`, in today's fields (see `modernized`).

    Raises:
        UserError: if there is none.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is not the workdir of a run: it has no config.json")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no fields")
    return modernized(values)


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether a run has saved anything in the workdir."""
    return any(path.name.isdigit() for path in workdir.glob("checkpoints/*"))


def check_same_run(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Raises `UserError` if the workdir holds a checkpoint that `config` cannot continue."""
    if not has_checkpoint(workdir):
        return
    before = read_config(workdir)
    for field in _FIXED:
        old, new = (_plain(tree, field) for tree in (before, config))
        if old != new:
            raise UserError(
                f"{workdir} holds a run with config.{field}={old}, not {new}; "
                "give another --workdir, or the config of that run"
            )


def changed_fields(workdir: pathlib.Path, config: ConfigDict) -> list[str]:
    """Returns "config.x is 2, before 1" for each field not as it was in the workdir's run."""
    if not has_checkpoint(workdir):
        return []
    old, new = (dict(leaves(config_as_json(tree))) for tree in (read_config(workdir), config))
    return [
        f"config.{field} is {value}, before {old.get(field)}"
        for field, value in new.items()
        if old.get(field) != value
    ]


def _plain(config: ConfigDict, field: str) -> Any:
    value = config_as_json(config)
    for key in field.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
