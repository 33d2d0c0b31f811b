"""Saves checkpoints in the background, with retries, and removes old ones."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import operator
import os
from collections.abc import Sequence
from typing import Any

import orbax.checkpoint as ocp

from se_flax.runtime.checkpoint_format import Checkpoint, first_process_alone, steps_in
from se_flax.runtime.paths import Path
from se_flax.runtime.storage import identity, persistently, remove, sync_folder

_REMOVED = "removed"
# What Orbax and TensorStore raise when storage fails: for TensorStore, mostly a ValueError.
_STORAGE_ERRORS = (OSError, ValueError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Save:
    """A checkpoint that is being saved, and the first attempt to write it."""

    step: int
    checkpoint: Checkpoint
    tree: Any
    writing: concurrent.futures.Future[None]


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Leaves preemption notices to `Interrupt`: JAX expects one query per dispatch."""
        return False


class CheckpointWriter:
    """Writes checkpoints to a folder, one at a time.

    Args:
        folder: where each checkpoint gets a folder named by its step; must exist.
        metrics: names of metrics. Besides the two latest checkpoints, the one with the highest
            value of each is kept.
    """

    def __init__(self, folder: Path, metrics: Sequence[str]):
        self._folder = folder
        self._names = metrics
        self._pending: Save | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1)
        self._identity = identity(folder)
        self._clear_removed()
        self._manager = self._make_manager()

    def _make_manager(self) -> _Manager:
        policies = ocp.checkpoint_managers
        best = [
            policies.BestN(
                get_metric_fn=operator.itemgetter(name),
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            for name in self._names
        ]
        return _Manager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=operator.itemgetter(self._names[0]),
                # Two, because the latest may turn out to be damaged.
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), *best]),
                # A checkpoint is renamed before it is removed, so that one that is only partly
                # removed is not mistaken for a damaged one.
                todelete_subdir=_REMOVED,
                cleanup_tmp_directories=True,
                create=False,
                # After one of its own background threads has failed, Orbax waits for minutes.
                enable_async_checkpointing=False,
                multiprocessing_options=first_process_alone(),
            ),
        )

    def start(self, step: int, checkpoint: Checkpoint, tree: Any) -> None:
        """Begins to save a checkpoint. Call `wait` first, to complete the previous save.

        Args:
            step: names its folder.
            checkpoint: what to save.
            tree: its arrays as a pytree; they must not change until `wait` returns.
        """
        writing = self._background.submit(self._write, step, checkpoint, tree)
        self._pending = Save(step, checkpoint, tree, writing)

    def has_ended(self) -> bool:
        """Whether a save was begun and its first attempt is over, so that `wait` is due."""
        return self._pending is not None and self._pending.writing.done()

    def wait(self) -> Save | None:
        """Waits until everything is on disk; returns the checkpoint that was being saved, if any.

        Raises:
            StorageError: if it cannot be written, after several attempts.
        """
        if self._pending is None:
            return None
        save = self._pending
        attempts = itertools.chain(
            [save.writing.result], itertools.repeat(lambda: self._write_again(save))
        )
        what = f"the checkpoint of step {save.step} to {self._folder}"
        try:
            persistently(lambda: next(attempts)(), what, _STORAGE_ERRORS)
        except Exception:
            self._pending = None
            raise
        self._pending = None
        self._clear_removed()
        return save

    def _write_again(self, save: Save) -> None:
        self._close_manager()
        self._manager = self._make_manager()
        # Whether the previous attempt failed after Orbax had finished writing.
        if save.step in steps_in(self._folder):
            sync_folder(self._folder / str(save.step))
        else:
            self._write(save.step, save.checkpoint, save.tree)

    def _write(self, step: int, checkpoint: Checkpoint, tree: Any) -> None:
        self._check_folder()
        args = checkpoint.save_args(tree)
        self._manager.save(step, args=args, metrics=checkpoint.metrics, force=True)
        try:
            self._check_folder()
        except OSError:  # the folder was moved away, and Orbax made another in its place
            remove(self._folder / str(step))
            raise
        sync_folder(self._folder / str(step))

    def _check_folder(self) -> None:
        """Raises `OSError` if the folder is not the one that was there at the start."""
        if self._identity != identity(self._folder):
            raise FileNotFoundError(2, os.strerror(2), str(self._folder))

    def _clear_removed(self) -> None:
        remove(self._folder / _REMOVED)

    def abandon(self) -> None:
        """Ends without waiting for a save."""
        self._background.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Ends once the current attempt to write is over."""
        self._background.shutdown()
        self._close_manager()

    def _close_manager(self) -> None:
        with contextlib.suppress(Exception):  # `wait` has raised what matters
            self._manager.close()
