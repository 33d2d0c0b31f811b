"""The option --config of the commands: its fields, and what is wrong with one of them."""

import re
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from se_flax.cli import config_files
from se_flax.errors import UserError, nearest

_OVERRIDE = re.compile(r"--?(?:no)?config\.model\.overrides\.(\w+)(?:=|$)")
# What a value must be, by what absl says of one that is not.
_KINDS = {
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "('Non-boolean argument": "true or false",
}
_ABBREVIATIONS = {"lr": "learning_rate", "wd": "weight_decay"}


def define_config_flag() -> None:
    """Declares --config=FILE[:ARGUMENT], and --config.FIELD=VALUE for every field of the config.

    FILE is a path, or the name of a config that comes with the package.

    A field of the network or of its blocks that the config file does not set can be given, too, as
    --config.model.overrides.FIELD=VALUE. Its type is that of the network's field.
    """
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config of the run, FILE or FILE:ARGUMENT; FILE is a path, or the name of a config that "
        "comes with se_flax, such as quickstart.",
    )
    flags.FLAGS["config"].parser = _ConfigParser("config")


class _ConfigParser(ConfigFileFlagParser):
    """Loads a config, and adds a place for each override on the command line."""

    def parse(self, path):
        config_files.make_importable()
        name, colon, argument = path.partition(":")
        config = super().parse(f"{config_files.find(name)}{colon}{argument}")
        if isinstance(config, ConfigDict) and "overrides" in config.get("model", {}):
            _add_places(config, flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False))
        return config


def _add_places(config: ConfigDict, argv: list[str]) -> None:
    """Adds the overrides on a command line as fields that have a type but no value yet."""
    from se_flax.detection import create  # imports JAX
    from se_flax.models.registry import field_type

    overrides = config.model.overrides
    given = {match[1] for match in map(_OVERRIDE.match, argv) if match}
    name = _value(argv, "model.name") or config.model.name
    block = _value(argv, "model.overrides.se") or overrides.get("se")
    type_of = create.field_type if create.is_detector(name) else field_type
    with overrides.unlocked():
        for field in sorted(given - set(overrides)):
            overrides[field] = config_dict.placeholder(type_of(name, field, block))


def _value(argv: list[str], field: str) -> str | None:
    """Returns the last value of --config.FIELD on a command line, or None."""
    value = None
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        option, equals, text = argument.partition("=")
        if option.lstrip("-") == f"config.{field}" and option.startswith("-"):
            value = text if equals else following
    return value


def fields() -> Iterator[tuple[str, str, str]]:
    """Yields name, default and meaning of each field of a config."""
    from se_flax.config import FIELDS  # takes a second, because it imports JAX

    for name, field in FIELDS.items():
        yield name, f"{field.default}", field.meaning


def clearer(error: Exception, argv: Sequence[str]) -> UserError | None:
    """Returns what is wrong with an option, if an error does not say it well.

    Args:
        error: raised when the command line was parsed.
        argv: the command line.
    """
    for said, kind in _KINDS.items():
        if value := re.fullmatch(rf"flag (--.*): {re.escape(said)}.*", str(error), re.DOTALL):
            return UserError(f"{value[1]} must be {kind}")
    argument = re.search(r"get_config\(\) takes 0 positional arguments", str(error))
    for option in argv:
        file = re.fullmatch(r"--?config=([^:]+):(.*)", option)
        if argument and file:
            return UserError(f'{file[1]}: this config takes no argument; remove ":{file[2]}"')
        field = re.match(r"--?(?:no)?config\.([\w.]+)", option)
        if field and (unknown := _unknown(field[1])):
            return unknown
    if isinstance(error, flags.UnrecognizedFlagError):
        option = f"--{error.flagname}"
        return UserError(f"there is no option {option}{nearest(option, _options())}")
    return None


def _options() -> list[str]:
    return [f"--{name}" for name in flags.FLAGS]


def _unknown(name: str) -> UserError | None:
    """Returns an error if there is no field of this name, with the nearest or its neighbours."""
    known = [field for field, _, _ in fields()]
    if name in known or name.startswith("model.overrides."):
        return None
    section, dot, leaf = name.rpartition(".")
    leaf = _ABBREVIATIONS.get(leaf, leaf)
    inside = [field.rpartition(".")[2] for field in known if field.rpartition(".")[0] == section]
    full = f"{section}{dot}{leaf}"
    hint = nearest(leaf, inside) if section and inside else nearest(full, known)
    hint = hint or nearest(full, [field for field in known if field.endswith(f".{leaf}")])
    if not hint and section and inside:
        hint = f"; the fields of config.{section} are {', '.join(inside)}"
    elif not hint:
        sections = dict.fromkeys(field.partition(".")[0] for field in known if "." in field)
        single = ", ".join(field for field in known if "." not in field)
        hint = f"; config has the sections {', '.join(sections)} and the fields {single}"
    return UserError(f'there is no config field "{name}"{hint}')
