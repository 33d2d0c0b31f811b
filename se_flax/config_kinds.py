"""Fields of a configuration, and the kinds of values that they may have."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Kind:
    """The values that a field may have.

    Attributes:
        allows: whether a value is allowed.
        expected: describes these values in an error message, after "must be".
    """

    allows: Callable[[Any], bool]
    expected: str


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the configuration.

    Attributes:
        default: its value in a new configuration.
        kind: the values it may have.
        meaning: what it does, in a phrase.
    """

    default: Any
    kind: Kind
    meaning: str


def _is_number(value: Any, low: float = 0, high: float = math.inf) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and low <= value <= high


def number(low: float = 0, high: float = math.inf) -> Kind:
    """Returns the numbers from `low` to `high`, without the infinite."""
    if high == math.inf:
        return Kind(lambda value: _is_number(value, low), f"a number of at least {low:g}")
    return Kind(lambda value: _is_number(value, low, high), f"a number from {low:g} to {high:g}")


def positive(high: float = math.inf) -> Kind:
    """Returns the numbers above 0, up to `high`."""
    limit = "" if high == math.inf else f" and at most {high:g}"
    return Kind(lambda x: _is_number(x, 0, high) and x > 0, f"a number above 0{limit}")


def whole(low: int, high: int = 2**31 - 1) -> Kind:
    """Returns the whole numbers from `low` to `high`."""
    return Kind(
        lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high,
        f"a whole number from {low} to {high}",
    )


def one_of(*names: str) -> Kind:
    """Returns two or more texts."""
    quoted = [f'"{name}"' for name in names]
    return Kind(lambda value: value in names, f"{', '.join(quoted[:-1])} or {quoted[-1]}")


def _sequence(is_item: Callable[[Any], bool], expected: str) -> Kind:
    return Kind(lambda x: isinstance(x, tuple | list) and all(map(is_item, x)), expected)


def _is_area(value: Any) -> bool:
    return _is_number(value, 0, 1) and value > 0


def _is_lr_multiplier(value: Any) -> bool:
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return is_pair and isinstance(value[0], str) and _is_number(value[1])


def _rising(kind: Kind) -> Kind:
    return Kind(lambda x: kind.allows(x) and list(x) == sorted(set(x)), kind.expected)


FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
TEXT = Kind(lambda value: isinstance(value, str), "a string")
FRACTION = Kind(lambda value: _is_number(value) and value < 1, "a number from 0 to below 1")
CROP_PCT = Kind(
    lambda value: value == 0 or _is_number(value, 0.1, 1), "0, or a number from 0.1 to 1"
)
CROP_AREA = Kind(
    lambda x: _sequence(_is_area, "").allows(x) and len(x) == 2 and x[0] <= x[1],
    "the smallest and the largest share of the image, above 0 and at most 1",
)
MEAN = _sequence(
    lambda value: _is_number(value, 0, 1), "numbers from 0 to 1, one per channel, or empty"
)
STD = _sequence(_is_area, "numbers above 0 and at most 1, one per channel, or empty")
MILESTONES = _rising(_sequence(_is_number, "increasing numbers of epochs, of at least 0"))
LR_MULTIPLIERS = _sequence(_is_lr_multiplier, "pairs of a pattern and a factor of at least 0")
OVERRIDES = Kind(lambda value: isinstance(value, Mapping | ConfigDict), "a dictionary")
CHARACTER = Kind(lambda value: isinstance(value, str) and len(value) == 1, "one character")
CLASS_WEIGHTS = Kind(
    lambda x: x in ("", "balanced") or _sequence(lambda w: _is_number(w) and w > 0, "").allows(x),
    '"balanced", or numbers above 0, one per class, or empty',
)
