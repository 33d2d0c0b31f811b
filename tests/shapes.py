"""The checker of annotated shapes and types that every call in the tests goes through."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, too


def checked(function: Callable) -> Callable:
    """Returns the function with checks, except `__init__`: JAX fills pytrees with any values."""
    return function if function.__name__ == "__init__" else _checked(function)
