"""Architectures by the tensors they have: which networks can be mistaken for which.

Two networks can have tensors of the same names and shapes and yet compute differently: `resnet50`,
and timm's resnetblur50, which blurs before it reduces the resolution. `architectures.csv` has
every architecture of timm, torchvision and pretrainedmodels whose tensors are those of one of our
networks; `tests/references/test_lookalikes.py` searches them all again.
"""

import csv
import dataclasses
import functools
import importlib.resources
import pathlib
from collections.abc import Collection

from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.pretrained.hub import is_hub_id
from se_flax.pretrained.layouts import layouts_of


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture whose tensors are those of a registered network.

    Attributes:
        library, name: the library that defines it, and its name there.
        tensors: a registered network with the same tensors. All architectures for which this is
            the same have the same tensors.
        computed_by: the registered network that computes the same, or "" if none does.
    """

    library: str
    name: str
    tensors: str
    computed_by: str


@functools.cache
def architectures() -> tuple[Architecture, ...]:
    """Returns the content of `architectures.csv`."""
    table = importlib.resources.files("se_flax.pretrained") / "architectures.csv"
    return tuple(Architecture(**row) for row in csv.DictReader(table.read_text().splitlines()))


def with_tensors_of(name: str, tensors: Collection[str] = ()) -> list[Architecture]:
    """Returns all architectures with the tensors of a registered network.

    Args:
        name: the registered network.
        tensors: names of the tensors in a file. Where libraries name them differently, only the
            architectures with these names are returned.
    """
    own = model_info(name).same_as or name
    groups = {known.tensors for known in architectures() if known.computed_by == own}
    named = {
        group
        for group in groups
        if any(layout.classifier_bias in tensors for layout in layouts_of(group))
    }
    return [known for known in architectures() if known.tensors in (named or groups)]


def of_hub_id(source: str | pathlib.Path) -> str | None:
    """Returns the architecture in one of timm's hub ids, timm/ARCHITECTURE.WEIGHTS, or None."""
    owner, _, repository = str(source).partition("/")
    if owner != "timm" or not is_hub_id(source) or pathlib.Path(source).is_file():
        return None
    return repository.partition(".")[0]


def check_hub_id(name: str, source: str | pathlib.Path) -> None:
    """Raises `UserError` if a source is a hub id of timm for what a network does not compute.

    The table has all architectures of timm that a network can compute.
    """
    stated = of_hub_id(source)
    if stated and check_architecture(name, source, stated, "timm"):
        raise _refusal(name, source, f"timm's {stated}", [])


def check_architecture(
    name: str, source: str | pathlib.Path, stated: str, library: str | None = None
) -> str | None:
    """Checks the architecture that is stated with weights.

    Args:
        name: the registered network to load them into.
        source: the weights, for messages.
        stated: the architecture's name.
        library: the library that gives it this name, if that is known.

    Returns:
        What to tell the user if the architecture is unknown; None if the network computes it.

    Raises:
        UserError: if it is known that the network does not compute the architecture.
    """
    own = model_info(name).same_as or name
    meant = [
        known
        for known in architectures()
        if known.name == stated and library in (None, known.library)
    ]
    if not meant:
        return (
            f'{source} is stated to be for "{stated}", which is not known here; it is read as '
            f'"{name}", so make sure that this network computes the same'
        )
    computed_by = [known.computed_by for known in meant]
    if own in computed_by:
        return None
    others = [f'the model "{other}"' for other in computed_by if other]
    raise _refusal(name, source, f"{meant[0].library}'s {stated}", others)


def _refusal(
    name: str, source: str | pathlib.Path, architecture: str, others: list[str]
) -> UserError:
    own = model_info(name).same_as or name
    choices = others[:1] + [f"weights of {known}" for known in _names(own, computed=True)[:1]]
    return UserError(
        f'{source} is for {architecture}; "{name}" computes differently from that network; choose '
        f"{' or '.join(choices) or 'another source'}"
    )


def lookalikes(name: str, source: str | pathlib.Path, tensors: Collection[str] = ()) -> str | None:
    """Returns what to tell the user of weights that do not state their architecture.

    Args:
        name: the registered network to load them into.
        source: the weights, for messages.
        tensors: names of the tensors in them.

    Returns:
        A sentence that names the networks with the same tensors which compute differently from
        `name`; None if there are none.
    """
    own = model_info(name).same_as or name
    others = _names(own, computed=False, tensors=tensors)
    if not others:
        return None
    return (
        f'{source} does not state its architecture and is read as "{name}"; '
        f"{', '.join(others)} {'have' if len(others) > 1 else 'has'} the same tensors but "
        f"{'compute' if len(others) > 1 else 'computes'} differently, so make sure that it is for "
        f'"{name}"'
    )


def _names(own: str, computed: bool, tensors: Collection[str] = ()) -> list[str]:
    """Returns the architectures with a network's tensors that it computes, or does not compute."""
    known = [one for one in with_tensors_of(own, tensors) if (one.computed_by == own) == computed]
    return list(dict.fromkeys(f"{one.library}'s {one.name}" for one in known))
