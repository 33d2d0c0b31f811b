"""The config of a run as a file that trains it again."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from se_flax.config import default_config, leaves
from se_flax.pretrained.hub import is_hub_id

_FILE = '''\
"""A config of se_flax: python -m se_flax.main --config=recipe.py"""

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config() -> ConfigDict:
    """Returns the config of the published run."""
    config = default_config()
{fields}
    return config
'''


def recipe(config: ConfigDict) -> str:
    """Returns a config file for `se_flax.main` with the fields of a run (see `changed_fields`)."""
    lines = [_line(name, value) for name, value in changed_fields(config).items()]
    return _FILE.format(fields="\n".join(f"    {line}" for line in lines))


def _line(name: str, value: Any) -> str:
    if name == "model.overrides":
        return f"config.{name}.update({value!r})"
    return f"config.{name} = {value!r}"


def changed_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields in which a run differs from the defaults, by dotted name.

    Folders and files are named without their parents, which are of no use on other machines and may
    be private. Where TFDS keeps its data is left out.
    """
    defaults = dict(leaves(default_config()))
    fields = {name: _plain(value) for name, value in leaves(config)}
    fields = {name: value for name, value in fields.items() if value != _plain(defaults[name])}
    fields.pop("dataset.data_dir", None)
    if "dataset.image_dir" in fields:
        fields["dataset.image_dir"] = pathlib.PurePath(fields["dataset.image_dir"]).name
    if "init_from" in fields and not is_hub_id(fields["init_from"]):
        fields["init_from"] = pathlib.PurePath(fields["init_from"]).name
    return fields


def _plain(value: Any) -> Any:
    """Returns a value with tuples for lists, which a `config.json` has instead."""
    if isinstance(value, ConfigDict):
        return {key: _plain(x) for key, x in value.to_dict().items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
