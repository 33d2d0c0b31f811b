"""The errors that a user's input and what surrounds a run can cause, and their words."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that cannot be used. The message is one sentence and says what to do.

    The commands print the message alone and exit with status 2; from Python it is a
    `ValueError` like any other.
    """


class RunError(Exception):
    """A run that could not go on, and not because of its input; its last checkpoint is kept.

    The message is one sentence. The commands print it alone and exit with `status`.
    """

    status = 1


class StorageError(RunError):
    """What a run writes cannot be written."""

    status = 74  # sysexits' EX_IOERR


class RunDiverged(RunError):
    """The loss or its gradient is no longer finite."""

    status = 3


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ' (did you mean "x"?)' for the valid name closest to `name`, or ''."""
    valid = list(valid)
    matches = [item for item in valid if item.startswith(str(name))]
    matches = matches or difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f' (did you mean "{matches[0]}"?)' if matches else ""


def check_choice(field: str, value: str, valid: Iterable[str]) -> None:
    """Raises `UserError` unless the value of a field is one of the valid ones."""
    if value not in (valid := list(valid)):
        raise UserError(
            f'there is no {field} "{value}"{nearest(value, valid)}; known are {", ".join(valid)}'
        )
