"""What the commands share: reading flags, and telling errors in one line."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging

from se_flax.errors import UserError

USER_ERROR = 2  # exit status after bad input


def parse_flags(argv: list[str]) -> list[str]:
    """Reads the command line; exits with one line, and status 2, if it cannot be used."""
    # TensorFlow writes the TensorBoard events and nothing else; it need not introduce itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        rest = flags.FLAGS(argv)
    # Besides absl's errors, what a config file raises for a field or argument it does not know.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _exit(error)
    if len(rest) > 1:
        _exit(UserError(f'unknown argument "{rest[1]}"; options begin with --'))
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # absl's own default tells of every step of Orbax
    # Orbax's warning at a checkpoint between two evaluations, which is as it should be.
    logging.get_absl_logger().addFilter(lambda record: "tracked_metric" not in str(record.msg))
    return rest


def run_command(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main function so that a `UserError` is told in one line, status 2."""

    def wrapped(argv: list[str]) -> None:
        try:
            main(argv)
        except UserError as error:
            _exit(error)

    return wrapped


def _exit(error: Exception) -> NoReturn:
    print(f"error: {_one_sentence(error)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _one_sentence(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, AttributeError | KeyError):
        # ml_collections quotes the field, and below it the nearest one: once, or once more.
        field, *hint = text.strip("\"'").replace("\\n", "\n").replace("\\'", "'").splitlines()
        field = field.strip("'")
        text = f'there is no config field "{field}"' if " " not in field else field
        text += f" ({hint[0]})" if hint else ""
    first, *_, last = [text, *text.splitlines()]
    if "Traceback" in first:  # of a config's get_config; its last line is what was raised
        text = f"{first.partition(': ')[0]}: {last.partition(': ')[2] or last}"
    return " ".join(text.split())
