"""What a command prints for --help."""

import re
import shutil
import sys
import textwrap
from typing import Any

from absl import flags

from se_flax.cli.config_flag import fields


def print_help() -> None:
    """Prints what the command does, its options, and the fields of its config if it takes one."""
    for paragraph in (sys.modules["__main__"].__doc__ or "").strip().split("\n\n"):
        items = re.split(r"\n(?=- |python )", paragraph)
        print("\n".join(map(_filled, items)), end="\n\n")
    options = _own_flags()
    print("Options, with their defaults:" if options else "It has no options.")
    for flag in options:
        _print_entry(f"--{flag.name}={_shown(flag.default)}", flag.help or "")
    if "config" in flags.FLAGS:
        print("\nFields of a config, with their defaults; the config file sets some of them:")
        for name, default, meaning in fields():
            _print_entry(f"--config.{name}={default}", meaning)
    print("\n--helpfull also lists the options of the libraries.")


def _own_flags() -> list[flags.Flag]:
    """Returns the options that the command itself declares, in that order."""
    spec = sys.modules["__main__"].__spec__
    own = {"se_flax", spec.name.partition(".")[0] if spec else "se_flax"}
    return [
        flag
        for module, declared in flags.FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.partition(".")[0] in own
        for flag in declared
    ]


def _shown(default: Any) -> str:
    if isinstance(default, list):
        return ",".join(map(str, default))
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def _print_entry(option: str, meaning: str) -> None:
    print(f"  {option}\n{_filled(meaning, indent=' ' * 6)}")


def _filled(text: str, indent: str = "") -> str:
    """Returns text broken into lines of the terminal's width, at most 100."""
    width = min(100, shutil.get_terminal_size().columns) - 1
    text = " ".join(text.split())
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
