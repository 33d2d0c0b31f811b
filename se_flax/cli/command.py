"""Code shared by the commands: parsing flags, and printing errors on one line."""

import functools
import io
import logging as std_logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging

from se_flax.cli.config_flag import clearer
from se_flax.cli.help import print_help
from se_flax.errors import Note, RunError, StorageError, UserError
from se_flax.runtime import compiler
from se_flax.runtime.terminal import fitted, say_last

USER_ERROR = 2  # exit status after bad input
READER_GONE = 141  # the status that shells give a program ended by SIGPIPE
INTERRUPTED = 75  # exit status of a run that was stopped and can be resumed (EX_TEMPFAIL)


def parse_flags(argv: list[str], positional: int = 0) -> list[str]:
    """Parses the command line; if it is invalid, prints one line and exits with status 2.

    With --help, prints the options and exits with status 0.

    Args:
        argv: the command line.
        positional: largest number of positional arguments.

    Returns:
        The program's name and its positional arguments.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        outlive_output()
        print_help()
        sys.exit(0)
    compiler.prepare()
    # TensorFlow only prepares data sets; its start-up messages are of no interest.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Orbax and TFDS log every step and warn about normal conditions. They also log errors that
    # they raise, with a traceback for each array of a checkpoint.
    logging.set_verbosity(logging.FATAL)
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # absl's errors, and any error raised by a config file
        if better := clearer(error, argv):
            _exit(better)
        _exit(error, place=next((arg for arg in argv if arg.startswith("--config=")), ""))
    if len(rest) > 1 + positional:
        _exit(UserError(f'unknown argument "{rest[1 + positional]}"; options must begin with --'))
    if not flags.FLAGS["verbosity"].present:
        for library in ("asyncio", "gcsfs"):  # they log errors that they raise
            std_logging.getLogger(library).setLevel(std_logging.CRITICAL)
        sys.unraisablehook = _tell_unraisable
    return rest


def _tell_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Prints an unraisable error, except the one TensorStore causes after an error in Orbax."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class _Unfailing(io.FileIO):
    """A file that ignores write errors."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def outlive_output() -> None:
    """Keeps the command running when stdout or stderr cannot be written.

    Meant for commands that write their results to files. Writing fails, for example, when Ctrl-C
    ends the program that the output is piped into, the terminal is closed, or the log's disk is
    full.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the command started
            setattr(sys, name, pathlib.Path(os.devnull).open("w"))  # noqa: SIM115
            continue
        stream.flush()
        file = io.BufferedWriter(_Unfailing(stream.fileno(), "w", closefd=False))
        kept = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering")}
        setattr(sys, name, io.TextIOWrapper(file, **kept))


def run_command(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main function so that errors are printed on one line.

    The exit status is 2 after a `UserError` and `error.status` after a `RunError`. Ctrl-C ends
    the command immediately, with status 75. If the output is piped into a program that has ended,
    such as `head`, the command ends silently, with status 141. Notes are printed on one line each.
    """

    def wrapped(argv: list[str]) -> None:
        warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
        try:
            main(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(READER_GONE)
        except UserError as error:
            _exit(error)
        except (StorageError, OSError) as error:
            _exit(error, getattr(error, "status", USER_ERROR), alone=True)
        except RunError as error:
            _exit(error, error.status)
        except KeyboardInterrupt:
            say_last("stopped immediately")
            os._exit(INTERRUPTED)  # does not wait for XLA's compilation threads

    return wrapped


def _show_warning(otherwise: Callable[..., None], message, category, *place) -> None:
    """Prints a note on one line; leaves other warnings to the function `otherwise`."""
    if not issubclass(category, Note):
        otherwise(message, category, *place)
        return
    print(f"note: {_one_sentence(message)}", file=sys.stderr, flush=True)


def _exit(
    error: Exception, status: int = USER_ERROR, place: str = "", alone: bool = False
) -> NoReturn:
    """Prints an error and exits.

    Args:
        error: the error.
        status: exit status.
        place: option that caused the error, `--config=FILE[:ARGUMENT]`, or "".
        alone: whether, in a run of several processes, this may be the only one with the error.
            Then it does not wait for the others.
    """
    text = _one_sentence(error)
    if not isinstance(error, flags.Error | AttributeError):
        file = place.partition("=")[2].partition(":")[0]
        if file not in text:
            text = f"{file}: {type(error).__name__}{f': {text}' if text else ''}"
    print(fitted(f"error: {text}", sys.stderr), file=sys.stderr, flush=True)
    if alone and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        os._exit(status)  # sys.exit would wait for the other processes, which wait for this one
    sys.exit(status)


def _one_sentence(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, AttributeError | KeyError):
        # ml_collections gives the field's name, in one or two pairs of quotes, then a hint on the
        # next line.
        if text[:1] in "\"'":
            text = text.strip("\"'")
        field, *hint = text.replace("\\n", "\n").replace("\\'", "'").splitlines() or [""]
        if " " not in field:
            name = field.strip("'")
            field = f'there is no config field "{name}"'
        text = f"{field} ({hint[0]})" if hint else field
    if "Traceback" in text:  # from a config's get_config; the last line has the error
        last = text.rpartition("\n")[2]
        text = f"{text.partition(': ')[0]}: {last.partition(': ')[2] or last}"
    return " ".join(text.split())
