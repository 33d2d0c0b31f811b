"""What the commands share: reading flags, and telling errors in one line."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging

from se_flax import process
from se_flax.errors import UserError

USER_ERROR = 2  # exit status after bad input
INTERRUPTED = 75  # of a run that was stopped and can go on (sysexits' EX_TEMPFAIL)


def parse_flags(argv: list[str], positional: int = 0) -> list[str]:
    """Reads the command line; exits with one line, and status 2, if it cannot be used.

    Args:
        argv: the command line.
        positional: how many arguments that are no options it may have.
    """
    process.prepare()
    # TensorFlow prepares data sets and nothing else; it need not introduce itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        rest = flags.FLAGS(argv)
    # Besides absl's errors, what a config file raises for a field or argument it does not know.
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        SyntaxError,
    ) as error:
        _exit(error)
    if len(rest) > 1 + positional:
        _exit(UserError(f'unknown argument "{rest[1 + positional]}"; options begin with --'))
    if not flags.FLAGS["verbosity"].present:
        # Orbax and TFDS tell of every step, and warn of what is as it should be.
        logging.set_verbosity(logging.ERROR)
    return rest


def run_command(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main function so that a `UserError` is told in one line, status 2.

    Ctrl-C ends it at once, with status 75.
    """

    def wrapped(argv: list[str]) -> None:
        try:
            main(argv)
        except (UserError, OSError) as error:
            _exit(error)
        except KeyboardInterrupt:
            print("stopped at once", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)  # without waiting for what XLA compiles in threads of its own

    return wrapped


def _exit(error: Exception) -> NoReturn:
    print(f"error: {_one_sentence(error)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _one_sentence(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, AttributeError | KeyError):
        # ml_collections quotes the field, and below it the nearest one: once, or once more.
        if text[:1] in "\"'":
            text = text.strip("\"'")
        field, *hint = text.replace("\\n", "\n").replace("\\'", "'").splitlines()
        if " " not in field:
            name = field.strip("'")
            field = f'there is no config field "{name}"'
        text = f"{field} ({hint[0]})" if hint else field
    first, *_, last = [text, *text.splitlines()]
    if "Traceback" in first:  # of a config's get_config; its last line is what was raised
        text = f"{first.partition(': ')[0]}: {last.partition(': ')[2] or last}"
    return " ".join(text.split())
