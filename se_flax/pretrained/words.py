"""The names of classes, in the order of the outputs of networks with published weights.

`imagenet_classes.csv` has the synsets of ImageNet's 1000 classes in their usual order, that of all
weights as `load_pretrained` returns them, and a name for each, from torchvision 0.28.0
(`torchvision/models/_meta.py`). It is the first name of the synset in WordNet 3.0, except where two
synsets share it: "crane bird" is not the machine, and "maillot tank suit" not the dancer's maillot.
`cifar_classes.csv` has the labels of CIFAR-10 and the fine labels of CIFAR-100, in the order of
their authors' files (`batches.meta`, `meta`).
"""

import csv
import functools
import importlib.resources
from collections.abc import Iterable


@functools.cache
def imagenet_words() -> dict[str, str]:
    """Returns the name of each of ImageNet's classes by synset, in the order of the outputs."""
    return {row["synset"]: row["name"] for row in _rows("imagenet_classes.csv")}


def in_words(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of classes, with ImageNet's synsets ("n01443537") in words ("goldfish")."""
    words = imagenet_words()
    return tuple(words.get(name, name) for name in names)


def classes_of(dataset: str) -> tuple[str, ...] | None:
    """Returns the names of a data set's classes in the order of its labels; None if not known here.

    Args:
        dataset: TFDS name of the data set, for example "imagenet2012" or "cifar10".
    """
    if dataset == "imagenet2012":
        return tuple(imagenet_words().values())
    names = (row["name"] for row in _rows("cifar_classes.csv") if row["dataset"] == dataset)
    return tuple(names) or None


def _rows(file: str) -> list[dict[str, str]]:
    table = importlib.resources.files("se_flax.pretrained") / file
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
