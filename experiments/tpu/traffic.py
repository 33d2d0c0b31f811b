"""How many bytes a compiled TPU program moves to and from HBM, from its text."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

INSTRUCTION = re.compile(r"\s*(?:ROOT )?(%[\w.\-]+) = (.*?) ([\w\-]+)\(([^)]*)\)")
ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\](?:\{([^}]*)\})?")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")
# They only name memory.
MOVE_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


class _Array(NamedTuple):
    kind: str
    sizes: str
    in_hbm: bool
    bytes: int


def hbm_bytes(text: str) -> int:
    """Returns the bytes that a program reads from HBM and writes to it, on one device.

    The compiler keeps many arrays in memory on the chip; their layout then has `S(1)`. All others
    are in HBM. Every operation reads its operands and writes its results once. An asynchronous copy
    moves as much as its destination holds. An operand of another operation that is read in part
    counts as a whole, and the body of a loop does not count. So the number is meant for training
    steps and inference, not for programs with a loop.

    Args:
        text: the optimised program, `jax.stages.Compiled.as_text()`.
    """
    entry = text[text.index("\nENTRY ") :].partition("\n}")[0]
    results: dict[str, list[_Array]] = {}
    total = 0
    for name, shape, operation, names in map(re.Match.groups, INSTRUCTION.finditer(entry)):
        results[name] = list(_arrays(shape))
        if operation in MOVE_NOTHING or operation.endswith("-done"):
            continue
        operands = [array for each in names.split(", ") for array in results.get(each, ())]
        if operation.endswith("-start"):  # its result holds the operands, too
            total += _copied(operands, results[name])
        else:
            total += _in_hbm(operands) + _in_hbm(results[name])
    return total


def _arrays(shape: str) -> Iterator[_Array]:
    """Yields the arrays of a shape, which may be a tuple."""
    for kind, bits, sizes, layout in ARRAY.findall(shape):
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        size = elements * -(-int(bits or 8) // 8)
        yield _Array(kind + bits, sizes, not ON_CHIP.search(layout), size)


def _in_hbm(arrays: Iterable[_Array]) -> int:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _copied(operands: list[_Array], result: list[_Array]) -> int:
    """Returns the bytes in HBM of an asynchronous copy, all or a part of its operands."""
    rest = (Counter(result) - Counter(operands)).elements()
    destination = [array for array in rest if array.sizes]  # without the counter that signals
    source = sum(array.bytes for array in destination) if _in_hbm(operands) else 0
    return source + _in_hbm(destination)
