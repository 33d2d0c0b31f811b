"""What the commands share: reading flags, and telling errors in one line."""

import io
import logging as std_logging
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging

from se_flax.errors import RunError, StorageError, UserError
from se_flax.runtime import compiler

USER_ERROR = 2  # exit status after bad input
INTERRUPTED = 75  # of a run that was stopped and can go on (sysexits' EX_TEMPFAIL)


def parse_flags(argv: list[str], positional: int = 0) -> list[str]:
    """Reads the command line; exits with one line, and status 2, if it cannot be used.

    Args:
        argv: the command line.
        positional: how many arguments that are no options it may have.
    """
    compiler.prepare()
    # TensorFlow prepares data sets and nothing else; it need not introduce itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Orbax and TFDS tell of every step, and warn of what is as it should be. The errors they log
    # they raise, too: their tracebacks, one for each array of a checkpoint, are not for users.
    logging.set_verbosity(logging.FATAL)
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # besides absl's errors, whatever a config file raises
        _exit(error, place=next((arg for arg in argv if arg.startswith("--config=")), ""))
    if len(rest) > 1 + positional:
        _exit(UserError(f'unknown argument "{rest[1 + positional]}"; options begin with --'))
    if not flags.FLAGS["verbosity"].present:
        std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
        sys.unraisablehook = _tell_unraisable
    return rest


def _tell_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Tells of an error that could not be raised, but for TensorStore's after one of Orbax's."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class _Unfailing(io.FileIO):
    """A file that takes what it cannot write for written."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def outlive_output() -> None:
    """Lets the command go on where what it prints cannot be written.

    For commands that write their results to files: Ctrl-C ends what they are piped into, a
    terminal is closed, a disk that holds a log is full.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed from the start
            setattr(sys, name, pathlib.Path(os.devnull).open("w"))  # noqa: SIM115
            continue
        stream.flush()
        file = io.BufferedWriter(_Unfailing(stream.fileno(), "w", closefd=False))
        kept = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering")}
        setattr(sys, name, io.TextIOWrapper(file, **kept))


def run_command(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main function so that errors are told in one line.

    After a `UserError` the exit status is 2, after a `RunError` its own. Ctrl-C ends the command
    at once, with status 75.
    """

    def wrapped(argv: list[str]) -> None:
        try:
            main(argv)
        except UserError as error:
            _exit(error)
        except (StorageError, OSError) as error:
            _exit(error, getattr(error, "status", USER_ERROR), alone=True)
        except RunError as error:
            _exit(error, error.status)
        except KeyboardInterrupt:
            print("stopped at once", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)  # without waiting for what XLA compiles in threads of its own

    return wrapped


def _exit(
    error: Exception, status: int = USER_ERROR, place: str = "", alone: bool = False
) -> NoReturn:
    """Tells of an error, and exits.

    Args:
        error: what was raised.
        status: exit status.
        place: the option it comes from.
        alone: of several processes, this may be the only one that it was raised in: the others
            cannot end together with it.
    """
    text = _one_sentence(error)
    if not isinstance(error, flags.Error | AttributeError):
        file = place.partition("=")[2].partition(":")[0]
        if file not in text:
            text = f"{file}: {type(error).__name__}{f': {text}' if text else ''}"
    print(f"error: {text}", file=sys.stderr, flush=True)
    if alone and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        os._exit(status)  # JAX would wait for the others, which wait for this one
    sys.exit(status)


def _one_sentence(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, AttributeError | KeyError):
        # ml_collections quotes the field, and below it the nearest one: once, or once more.
        if text[:1] in "\"'":
            text = text.strip("\"'")
        field, *hint = text.replace("\\n", "\n").replace("\\'", "'").splitlines() or [""]
        if " " not in field:
            name = field.strip("'")
            field = f'there is no config field "{name}"'
        text = f"{field} ({hint[0]})" if hint else field
    if "Traceback" in text:  # of a config's get_config; its last line is what was raised
        last = text.rpartition("\n")[2]
        text = f"{text.partition(': ')[0]}: {last.partition(': ')[2] or last}"
    return " ".join(text.split())
