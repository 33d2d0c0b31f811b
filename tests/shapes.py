"""What checks the annotated shapes and types of each call in the tests."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, too


def checked(function: Callable) -> Callable:
    """Returns the function with checks; not of `__init__`, as JAX fills pytrees with all sorts."""
    return function if function.__name__ == "__init__" else _checked(function)
