"""Errors caused by a user's input or by the environment of a run, and helpers for messages."""

import contextlib
import difflib
import warnings
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Invalid input. The message is one sentence that also says what to do.

    The commands print only the message and exit with status 2. In Python it is an ordinary
    `ValueError`.
    """


class Note(UserWarning):
    """Something that a user should know and that is no error. The commands print it on one line."""


class RunError(Exception):
    """A run that failed for a reason other than its input; its last checkpoint is kept.

    The message is one sentence. The commands print only the message and exit with `status`.
    """

    status = 1


class StorageError(RunError):
    """A run's output cannot be written."""

    status = 74  # sysexits' EX_IOERR


class RunDiverged(RunError):
    """The loss or its gradient is no longer finite."""

    status = 3


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ' (did you mean "x"?)' for the valid name x closest to `name`, or ''."""
    valid = list(valid)
    matches = [item for item in valid if item.startswith(str(name))]
    if all(item.isdigit() for item in (str(name), *valid)):
        matches = sorted(valid, key=lambda item: abs(int(item) - int(name)))
    matches = matches or difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f' (did you mean "{matches[0]}"?)' if matches else ""


def check_choice(field: str, value: str, valid: Iterable[str]) -> None:
    """Raises `UserError` unless a field's value is valid."""
    if value not in (valid := list(valid)):
        raise UserError(
            f'there is no {field} "{value}"{nearest(value, valid)}; known are {", ".join(valid)}'
        )


@contextlib.contextmanager
def opening_a_run() -> Iterator[None]:
    """Raises `UserError` if a package of training is missing when it is imported within."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"opening a run requires the packages of training, of which {error.name} is missing; "
            'install them with pip install "se_flax[train]"'
        ) from error


@contextlib.contextmanager
def printing_notes() -> Iterator[list[warnings.WarningMessage]]:
    """Prints the notes (`Note`) given within, at its end; returns a list that they are added to."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Note)
        yield notes
    for note in notes:
        print(note.message)
