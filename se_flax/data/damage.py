"""Images that turn out damaged when they are decoded: named once, and counted."""

from collections.abc import Mapping

from se_flax.runtime.terminal import say_error

_SHOWN = 20  # images that are named; the others are only counted


class Damage:
    """The damaged images of a data set that this process has met."""

    def __init__(self):
        self._faults: dict[str, str] = {}
        self._left_out: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, faults: Mapping[str, str], instead: str) -> None:
        """Counts damaged images, and names each that is new on the standard error.

        Args:
            faults: what is wrong with each, by what describes the image.
            instead: what happens instead of using them, as a clause.
        """
        for name, fault in faults.items():
            if name in self._faults:
                continue
            self._faults[name] = fault
            if len(self) <= _SHOWN:
                say_error(f"damaged image {len(self)}: {name} ({fault}); {instead}")
            if len(self) == _SHOWN:
                say_error("further damaged images are counted, but not named")

    def say_left_out(self, count: int, size: int) -> None:
        """Says once how many of the images of an evaluation were left out."""
        if (count, size) not in self._left_out:
            self._left_out.add((count, size))
            say_error(f"{count:,} of {size:,} images are damaged and were not evaluated")
