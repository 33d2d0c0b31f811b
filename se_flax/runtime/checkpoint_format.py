"""One checkpoint on disk: what it holds, and how damage is detected.

A checkpoint is a folder written by Orbax. It holds the arrays of a pytree (`state`), plain values
with a digest (`progress`) and, if the model was evaluated at that step, `metrics`. The digest
covers all three, so a checkpoint is either read exactly as it was saved or reported as damaged.
"""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from se_flax.errors import UserError
from se_flax.runtime.storage import reason_of, sync

# System errors of a failed read that do not mean that the file's content is damaged.
_NOT_OF_CONTENT = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_NOT_OF_CONTENT += (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
_NOT_OF_CONTENT += (errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNRESET)


class CheckpointDamaged(UserError):
    """A checkpoint is not what was saved."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was saved at a step.

    Attributes:
        arrays: the leaves of the pytree by path: "params/classifier/bias".
        progress: plain values saved with them.
        metrics: the results of the evaluation at that step, or None if there was none.
    """

    arrays: dict[str, np.ndarray]
    progress: dict[str, Any]
    metrics: dict[str, float] | None

    def digest(self) -> str:
        """Returns the SHA-256 digest of arrays, progress and metrics."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        digest.update(json.dumps([self.progress, self.metrics], sort_keys=True).encode())
        return digest.hexdigest()

    def save_args(self, tree: Any) -> ocp.args.Composite:
        """Returns what Orbax needs to write this checkpoint; `tree` is the pytree of its arrays."""
        return ocp.args.Composite(
            state=ocp.args.StandardSave(tree),
            progress=ocp.args.JsonSave({"run": self.progress, "sha256": self.digest()}),
        )

    @classmethod
    def read(cls, folder: pathlib.Path) -> Self:
        """Reads a checkpoint from its folder.

        Raises:
            CheckpointDamaged: if it is not what was saved.
            UserError: if it cannot be read for another reason.
        """
        try:
            return cls._read(folder)
        except Exception as error:  # Orbax and TensorStore raise many types
            if _is_denied(error):
                raise UserError(f"cannot read {folder}: {reason_of(error)}") from error
            reason = reason_of(error)
            raise CheckpointDamaged(f"the checkpoint {folder} is damaged ({reason})") from error

    @classmethod
    def _read(cls, folder: pathlib.Path) -> Self:
        """Reads a checkpoint and compares it with its digest."""
        # Without a target tree: `check_fits` compares with one later, and gives a clearer message.
        found = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=first_process_alone()
        ).restore(
            folder.absolute(),
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
            ),
        )
        metrics_file = folder / "metrics" / "metrics"
        metrics = json.loads(metrics_file.read_text()) if metrics_file.exists() else None
        read = cls(named_arrays(found.state), found.progress["run"], metrics)
        if read.digest() != found.progress["sha256"]:
            raise ValueError("its content is not what was saved")
        return read


def _is_denied(error: Exception) -> bool:
    """Whether reading failed for a reason other than the files' content."""
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, OSError | MemoryError) and not isinstance(error, missing):
        return True
    # TensorStore's own message contains the system's message.
    return any(os.strerror(number) in str(error) for number in _NOT_OF_CONTENT)


def check_fits(
    arrays: Mapping[str, np.ndarray], abstract: Mapping[str, jax.ShapeDtypeStruct], where: str
) -> None:
    """Raises `UserError` unless arrays have the expected names, shapes and types.

    Args:
        arrays: the arrays of a checkpoint, by name.
        abstract: the expected shapes and types, by name.
        where: names the checkpoint in the message.
    """
    for name in sorted(arrays.keys() | abstract.keys()):
        if name not in abstract:
            problem = f"it holds {name}, which this config does not have"
        elif name not in arrays:
            problem = f"it lacks {name}"
        else:
            old, new = (f"{x.dtype} {list(x.shape)}" for x in (arrays[name], abstract[name]))
            if old == new:
                continue
            problem = f"its {name} is {old}, not {new}"
        raise UserError(f"{where} does not fit this config: {problem}; give the config of that run")


def named_arrays(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path: "params/classifier/bias"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def sync_checkpoint(folder: pathlib.Path) -> None:
    """Flushes a checkpoint to disk, so that it survives a power cut; Orbax flushes only arrays."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)


def first_process_alone() -> ocp.options.MultiprocessingOptions:
    """Returns the options that make Orbax read and write only in the first process of a run."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
