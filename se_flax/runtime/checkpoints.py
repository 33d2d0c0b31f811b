"""The checkpoints of a run: which are kept, which are damaged, and which are the best and latest.

`workdir/checkpoints` holds one folder per step; `checkpoint_format` says what is in it, and
`checkpoint_writer` saves it in the background.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

from se_flax.errors import StorageError, UserError
from se_flax.runtime.checkpoint_format import (
    Checkpoint,
    CheckpointDamaged,
    check_fits,
    named_arrays,
    steps_in,
)
from se_flax.runtime.checkpoint_writer import CheckpointWriter
from se_flax.runtime.distributed import arrays_from_first, from_first, is_first
from se_flax.runtime.paths import Path, absolute
from se_flax.runtime.storage import make_folder, move, persistently
from se_flax.runtime.terminal import say_error

_SET_ASIDE = "damaged_checkpoints"


class Checkpoints:
    """The checkpoints in a run's workdir, each a pytree of arrays with plain values.

    The two latest are kept, and the best by each metric. On opening, every checkpoint is read, and
    damaged ones are moved to `workdir/damaged_checkpoints`. In a run of several processes the
    first one reads and writes, and sends the others what it has read. Leaving the context closes
    them; after a KeyboardInterrupt, without waiting for a save.

    Args:
        workdir: the run's folder; created if it does not exist, unless `read_only`.
        metrics: names of the metrics by which the best checkpoints are kept; higher is better.
            With several, such as ("seed0/top1", "seed1/top1"), entry i of every array's leading
            axis belongs to metric i.
        read_only: never write or move anything. Asking for a damaged checkpoint is then an error,
            and so is asking for the best or the latest while any of them is damaged.

    Raises:
        UserError: if there are checkpoints and all are damaged, or one cannot be read now.
    """

    def __init__(self, workdir: Path, metrics: Sequence[str] = ("top1",), read_only: bool = False):
        self._workdir = workdir
        self._folder = absolute(workdir / "checkpoints")
        self._names = tuple(metrics)
        self._read_only = read_only
        self._metrics: dict[int, dict[str, float] | None] = {}
        self._damaged: list[CheckpointDamaged] = []
        self._read_already: dict[int, Checkpoint] = {}
        self._writer: CheckpointWriter | None = None
        if read_only:
            self._verify()
        else:
            from_first(self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.close()
        elif self._writer is not None:
            self._writer.abandon()

    def _open(self) -> None:
        make_folder(self._folder)
        self._verify()
        set_aside = self._workdir / _SET_ASIDE
        if not self._metrics and any(set_aside.glob("*")):
            raise UserError(
                f"all checkpoints of {self._workdir} are damaged and were moved to {set_aside}; "
                "give another --workdir, or remove that folder to start this run over"
            )
        self._writer = CheckpointWriter(self._folder, self._names)

    def _verify(self) -> None:
        """Reads every checkpoint; keeps the content of the latest good one for `restore`."""
        for step in steps_in(self._folder):
            found = self._read_or_set_aside(step)
            if found is not None:
                self._metrics[step], self._read_already = found.metrics, {step: found}

    def _read_or_set_aside(self, step: int) -> Checkpoint | None:
        """Returns a checkpoint; if it is damaged, returns None and, unless read-only, moves it."""
        folder = self._folder / str(step)
        try:
            return Checkpoint.read(folder)
        except CheckpointDamaged as error:
            if not folder.exists():  # the run that writes here has removed it
                return None
            self._metrics.pop(step, None)
            self._damaged.append(error)
            if not self._read_only:
                target = self._free_name(step)
                persistently(lambda: move(folder, target), str(target))
                say_error(f"{error}; it was moved to {target}")
            return None

    def _free_name(self, step: int) -> Path:
        """Returns where to move the damaged checkpoint of a step."""
        names = itertools.chain([str(step)], (f"{step}_{copy}" for copy in itertools.count(1)))
        targets = (self._workdir / _SET_ASIDE / name for name in names)
        return next(target for target in targets if not target.exists())

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in increasing order."""
        return [step for step in steps_in(self._folder) if self._read_only or step in self._metrics]

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        self._check_damage()
        return max(self.steps, default=None)

    @property
    def best(self) -> list[int]:
        """For each metric, the step of its highest value; empty if nothing was evaluated."""
        self._check_damage()
        results = {step: self._metrics.get(step) for step in self.steps}
        evaluated = {step: found for step, found in results.items() if found is not None}
        return [
            max(evaluated, key=lambda step, name=name: (evaluated[step][name], step))
            for name in self._names
            if evaluated
        ]

    def _check_damage(self) -> None:
        if self._read_only and self._damaged:
            raise UserError(
                f"{self._damaged[0]}; choose another by its step, or start the run again, which "
                "moves it out of the way"
            )

    def save(
        self,
        step: int,
        tree: Any,
        progress: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves a checkpoint in the background.

        Args:
            step: names the checkpoint.
            tree: a pytree of arrays, which are copied before this returns.
            progress: plain values to save with it.
            metrics: the results of the evaluation at this step, if there was one.

        Raises:
            StorageError: if the previous checkpoint cannot be written, after several attempts.
        """
        if not is_first():
            return
        self.wait()
        tree = jax.tree.map(np.array, jax.device_get(tree))  # JAX may reuse the memory of `tree`
        self._writer.start(step, Checkpoint(named_arrays(tree), progress, metrics), tree)

    def poll(self) -> None:
        """Completes a save whose first attempt is over; waits only if that attempt has failed.

        Raises:
            StorageError: if further attempts fail as well.
        """
        if self._writer is not None and self._writer.has_ended():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            StorageError: if it cannot be written, after several attempts.
        """
        if self._writer is not None and (saved := self._writer.wait()):
            self._metrics[saved.step] = saved.checkpoint.metrics

    def restore(self, abstract: Any, step: int) -> tuple[Any, dict[str, Any]]:
        """Returns the pytree and the plain values saved at a step.

        Args:
            abstract: a pytree of the same structure, whose leaves have a shape and a dtype.
            step: one of `steps`.

        Returns:
            The pytree with NumPy arrays, and the progress.

        Raises:
            CheckpointDamaged: if it is not what was saved.
            UserError: if the names, shapes or types of its arrays differ from `abstract`.
        """
        arrays, progress = self._read(named_arrays(abstract), step)
        return _as_tree(abstract, arrays), progress

    def _read(
        self, abstract: Mapping[str, jax.ShapeDtypeStruct], step: int
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays and the progress saved at a step, in all processes."""
        found = None

        def read() -> dict[str, Any]:
            nonlocal found
            found = self._read_already.pop(step, None)
            found = found or Checkpoint.read(self._folder / str(step))
            check_fits(found.arrays, abstract, f"the checkpoint of step {step} in {self._folder}")
            return found.progress

        progress = from_first(read)
        return arrays_from_first(found and found.arrays, abstract), progress

    def restore_best(self, abstract: Any) -> tuple[Any, list[int]]:
        """Returns the best pytree, and for each metric the step it was taken from.

        With several metrics, entry i of every array's leading axis comes from the step that is
        best by metric i. If a best checkpoint turns out to be damaged, the best of the others is
        taken.

        Args:
            abstract: see `restore`.

        Raises:
            UserError: if no undamaged checkpoint was evaluated, or arrays differ from `abstract`.
        """
        steps = from_first(self._read_best)
        names = named_arrays(abstract)
        arrays = {step: self._read(names, step)[0] for step in sorted(set(steps))}
        chosen = arrays[steps[0]]
        if len(set(steps)) > 1:
            chosen = {
                name: np.stack([arrays[step][name][place] for place, step in enumerate(steps)])
                for name in names
            }
        return _as_tree(abstract, chosen), steps

    def _read_best(self) -> list[int]:
        """Reads the best checkpoints into `_read_already`; returns their steps."""
        self._read_already = {}
        while steps := self.best:
            found = {step: self._read_or_set_aside(step) for step in set(steps)}
            if all(found.values()):
                self._read_already = found
                return steps
        raise UserError(f"{self._workdir} has no checkpoint that was evaluated")

    def progress(self, step: int) -> dict[str, Any]:
        """Returns the plain values saved at a step."""
        return Checkpoint.read(self._folder / str(step)).progress

    def close(self) -> None:
        """Waits until everything is on disk; prints an error if it cannot be written."""
        try:
            self.wait()
        except StorageError as error:
            say_error(str(error))
        finally:
            if self._writer is not None:
                self._writer.close()


def _as_tree(abstract: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Returns a tree of the structure of `abstract` with arrays by name as its leaves."""
    leaves = [arrays[name] for name in named_arrays(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)
