"""COCO's classes: their ids, of which ten numbers from 1 to 90 are left out, and their names.

`coco_classes.csv` has them as in the annotations of 2017 (https://cocodataset.org/#download).
"""

import csv
import functools
import importlib.resources


@functools.cache
def coco_classes() -> dict[int, str]:
    """Returns the name of each class by its id, in the order of the ids."""
    file = importlib.resources.files("se_flax.detection") / "coco_classes.csv"
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return {int(row["id"]): row["name"] for row in rows}


def coco_names() -> tuple[str, ...]:
    """Returns names for the numbers 1 to 90, as torchvision's detectors have; "" for no class."""
    names = coco_classes()
    return tuple(names.get(each, "") for each in range(1, max(names) + 1))
