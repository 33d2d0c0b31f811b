"""The option --config of the commands: its fields, and what is wrong with one of them."""

import re
from collections.abc import Iterator, Sequence

from se_flax.errors import UserError, nearest


def fields() -> Iterator[tuple[str, str, str]]:
    """Yields name, default and meaning of each field of a config."""
    from se_flax.config import FIELDS  # takes a second, because it imports JAX

    for name, field in FIELDS.items():
        yield name, f"{field.default}", field.meaning


def clearer(error: Exception, argv: Sequence[str]) -> UserError | None:
    """Returns what is wrong with --config or one of its fields, if an error does not say it well.

    Args:
        error: raised when the command line was parsed.
        argv: the command line.
    """
    argument = re.search(r"get_config\(\) takes 0 positional arguments", str(error))
    for option in argv:
        file = re.fullmatch(r"--?config=([^:]+):(.*)", option)
        if argument and file:
            return UserError(f'{file[1]}: this config takes no argument; remove ":{file[2]}"')
        field = re.match(r"--?(?:no)?config\.([\w.]+)", option)
        if field and (unknown := _unknown(field[1])):
            return unknown
    return None


def _unknown(name: str) -> UserError | None:
    """Returns an error if there is no field of this name, with the nearest or its neighbours."""
    known = [field for field, _, _ in fields()]
    if name in known or name.startswith("model.overrides."):
        return None
    section, _, leaf = name.rpartition(".")
    inside = [field.rpartition(".")[2] for field in known if field.rpartition(".")[0] == section]
    hint = nearest(leaf, inside) if section and inside else nearest(name, known)
    hint = hint or nearest(name, [field for field in known if field.endswith(f".{leaf}")])
    if not hint and section and inside:
        hint = f"; the fields of config.{section} are {', '.join(inside)}"
    elif not hint:
        sections = dict.fromkeys(field.partition(".")[0] for field in known if "." in field)
        single = ", ".join(field for field in known if "." not in field)
        hint = f"; config has the sections {', '.join(sections)} and the fields {single}"
    return UserError(f'there is no config field "{name}"{hint}')
