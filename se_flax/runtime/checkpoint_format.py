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
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from se_flax.errors import UserError
from se_flax.runtime.buckets import COMMITTED
from se_flax.runtime.paths import Path, absolute, is_in_bucket
from se_flax.runtime.storage import reason_of

# System errors of a failed read that do not mean that the file's content is damaged.
_NOT_OF_CONTENT = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_NOT_OF_CONTENT += (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
_NOT_OF_CONTENT += (errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNRESET)
# The same for a bucket, as TensorStore and Google's libraries name it.
_UNREACHABLE = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CANCELLED",
)


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
    def read(cls, folder: Path) -> Self:
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
    def _read(cls, folder: Path) -> Self:
        """Reads a checkpoint and compares it with its digest."""
        # Without a target tree: `check_fits` compares with one later, and gives a clearer message.
        found = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=first_process_alone()
        ).restore(
            absolute(folder),
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
    if type(error).__module__.startswith("google."):
        return True
    # TensorStore's own message contains the system's message.
    reasons = (*map(os.strerror, _NOT_OF_CONTENT), *_UNREACHABLE)
    return any(reason in str(error) for reason in reasons)


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


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, in increasing order.

    Half-written ones are left out. On a disk they have another name; in a bucket they lack the
    object that Orbax writes last.
    """
    if is_in_bucket(folder):
        try:
            names = [path.parent.name for path in folder.glob(f"*/{COMMITTED}")]
        except FileNotFoundError:  # there is no such bucket
            names = []
    else:
        names = [path.name for path in folder.glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def first_process_alone() -> ocp.options.MultiprocessingOptions:
    """Returns the options that make Orbax read and write only in the first process of a run."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
