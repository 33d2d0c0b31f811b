"""Checkpoints of a run: the latest and the best are kept, and saving does not hold it up.

A run's `workdir/checkpoints` holds one folder a step, each with the `TrainState`, what is
known of the run's progress, and, where it was evaluated, its metrics.
"""

import json
import operator
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from se_flax.config import fill_in
from se_flax.errors import UserError
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


class Checkpoints:
    """The checkpoints under a run's workdir.

    Args:
        workdir: the run's folder; made if it does not exist, unless `read_only`.
        seeds: of the run. Of several, the best checkpoint of each is kept.
        read_only: never write nor delete anything.
    """

    def __init__(self, workdir: pathlib.Path, seeds: Sequence[int] = (0,), read_only: bool = False):
        policies = ocp.checkpoint_managers
        self._top1_names = ["top1"]
        if len(seeds) > 1:
            self._top1_names = [f"seed{seed}/top1" for seed in seeds]
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=operator.itemgetter("top1"),
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(1),
                        *(
                            policies.BestN(
                                get_metric_fn=operator.itemgetter(name),
                                n=1,
                                keep_checkpoints_without_metrics=False,
                            )
                            for name in self._top1_names
                        ),
                    ]
                ),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> list[int]:
        """The step of the evaluated checkpoint of highest top-1, of each seed; empty if none."""
        metrics = {step: self._manager.metrics(step) for step in self.steps}
        evaluated = [step for step in metrics if metrics[step] is not None]
        return [
            max(evaluated, key=lambda step, name=name: (metrics[step][name], step))
            for name in self._top1_names
            if evaluated
        ]

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in increasing order."""
        return sorted(self._manager.all_steps())

    def metrics(self, step: int) -> dict[str, float]:
        """Returns what the evaluation of a checkpoint gave."""
        return dict(self._manager.metrics(step))

    def save(
        self,
        state: TrainState,
        progress: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves the state in the background.

        Args:
            state: what to save; its arrays are copied before this returns.
            progress: plain values to keep beside it.
            metrics: what its evaluation gave, if it was evaluated.
        """
        self._manager.save(
            state.host_step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
            metrics=metrics,
            force=True,
        )

    def restore(self, abstract_state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the progress saved at a step.

        Args:
            abstract_state: the state's shapes, types and, if they matter, shardings.

        Raises:
            UserError: if the checkpoint holds the state of another network or optimiser.
        """
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise UserError(
                f"the checkpoint of step {step} in {self._manager.directory} is damaged or does "
                "not fit this network and optimiser; give the config it was made with, or another "
                "--workdir"
            ) from error
        return restored.state, restored.progress

    def restore_best(self, abstract_state: TrainState) -> TrainState:
        """Returns the state of each seed from its `best` step; for the arguments, see `restore`."""
        state, _ = self.restore(abstract_state, self.best[0])
        for place, step in enumerate(self.best):
            if step != self.best[0]:
                other, _ = self.restore(abstract_state, step)
                state = jax.tree.map(
                    lambda x, y, place=place: x.at[place].set(y[place]), state, other
                )
        return state

    def progress(self, step: int) -> dict[str, Any]:
        """Returns the plain values that were saved beside the state of a step."""
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).progress

    def wait(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and ends the threads that put it there."""
        self._manager.close()


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes `config.json`."""
    text = json.dumps(json.loads(config.to_json_best_effort()), indent=2)
    partial = workdir / "config.tmp"
    partial.write_text(text + "\n")
    partial.replace(workdir / "config.json")


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Returns the config of a run from its `config.json`, made complete by `fill_in`.

    Raises:
        UserError: if there is none.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is not the workdir of a run: it has no config.json")
    try:
        config = ConfigDict(json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    fill_in(config)
    return config


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
    old, new = (
        dict(_leaves(tree.to_json_best_effort())) for tree in (read_config(workdir), config)
    )
    return [
        f"config.{field} is {value}, before {old.get(field)}"
        for field, value in new.items()
        if old.get(field) != value
    ]


def _leaves(text: str) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, plain value) of the fields of a config written as JSON."""

    def walk(tree, prefix):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return walk(json.loads(text), "")


def _plain(config: ConfigDict, field: str) -> Any:
    value = json.loads(config.to_json_best_effort())
    for key in field.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
