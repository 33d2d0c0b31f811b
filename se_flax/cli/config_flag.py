"""The option --config, whose `model.overrides` take every field of the network."""

import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from se_flax.models.registry import field_type

_OVERRIDE = re.compile(r"--?(?:no)?config\.model\.overrides\.(\w+)(?:=|$)")


def define_config_flag() -> None:
    """Declares --config=FILE[:ARGUMENT], and --config.FIELD=VALUE for every field of the config.

    A field of the network or of its blocks that the config file does not set can be given, too, as
    --config.model.overrides.FIELD=VALUE. Its type is that of the network's field.
    """
    config_flags.DEFINE_config_file(
        "config", None, "Config file of the run, FILE or FILE:ARGUMENT."
    )
    flags.FLAGS["config"].parser = _ConfigParser("config")


class _ConfigParser(ConfigFileFlagParser):
    """Loads a config, and adds a place for each override on the command line."""

    def parse(self, path):
        config = super().parse(path)
        if isinstance(config, ConfigDict) and "overrides" in config.get("model", {}):
            _add_places(config, flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False))
        return config


def _add_places(config: ConfigDict, argv: list[str]) -> None:
    """Adds the overrides on a command line as fields that have a type but no value yet."""
    overrides = config.model.overrides
    given = {match[1] for match in map(_OVERRIDE.match, argv) if match}
    name = _value(argv, "model.name") or config.model.name
    block = _value(argv, "model.overrides.se") or overrides.get("se")
    with overrides.unlocked():
        for field in sorted(given - set(overrides)):
            overrides[field] = config_dict.placeholder(field_type(name, field, block))


def _value(argv: list[str], field: str) -> str | None:
    """Returns the last value of --config.FIELD on a command line, or None."""
    value = None
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        option, equals, text = argument.partition("=")
        if option.lstrip("-") == f"config.{field}" and option.startswith("-"):
            value = text if equals else following
    return value
