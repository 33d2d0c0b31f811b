"""The config in a run's folder, and the fields that may change when the run continues."""

import json
from typing import Any

from ml_collections import ConfigDict

from se_flax.config import leaves
from se_flax.errors import UserError, nearest
from se_flax.old_configs import modernized, with_statistics
from se_flax.runtime.checkpoint_format import steps_in
from se_flax.runtime.paths import Path
from se_flax.runtime.storage import write_json

# A run can continue from a checkpoint only if these fields have not changed.
_FIXED = (
    "model.name",
    "model.overrides",
    "dataset.name",
    "dataset.image_dir",
    "dataset.coco",
    "dataset.short_side",
    "dataset.long_side",
    "dataset.labels",
    "dataset.multi_label",
    "dataset.image_size",
    "dataset.mean",
    "dataset.std",
    "validation_fraction",
    "batch_size",
    "optimizer.name",
    "seed",
    "num_seeds",
)


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Writes `config.json`."""
    write_json(workdir / "config.json", config_as_json(config))


def config_as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config's fields as plain values."""
    return json.loads(config.to_json_best_effort())


def read_config(workdir: Path) -> ConfigDict:
    """Returns the config in a run's `config.json`, with today's fields (see `modernized`).

    Raises:
        UserError: if the file does not exist or holds no config.
    """
    path = workdir / "config.json"
    if not path.is_file():
        others = [str(file.parent) for file in workdir.parent.glob("*/config.json")]
        why = "it has no config.json"
        if not workdir.is_dir():
            why = f"there is no such folder{nearest(str(workdir), others)}"
        raise UserError(f"{workdir} is not the workdir of a run: {why}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no fields")
    config = modernized(values)
    return config if "mean" in values.get("dataset", {}) else with_statistics(config)


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved a checkpoint in the workdir."""
    return bool(steps_in(workdir / "checkpoints"))


def check_same_run(workdir: Path, config: ConfigDict) -> None:
    """Raises `UserError` if the workdir holds a checkpoint that `config` cannot continue from."""
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


def changed_fields(workdir: Path, config: ConfigDict) -> list[str]:
    """Returns "config.x is 2, before 1" for each field that differs from the workdir's run."""
    if not has_checkpoint(workdir):
        return []
    old, new = (dict(leaves(config_as_json(tree))) for tree in (read_config(workdir), config))
    return [
        f"config.{field} is {value}, before {old.get(field)}"
        for field, value in new.items()
        if old.get(field) != value
    ]


def _plain(config: ConfigDict, field: str) -> Any:
    """Returns a field's plain value; None if the config lacks the field."""
    value = config_as_json(config)
    for key in field.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
