"""Objects in photographs, for the command `se_flax.predict`."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from se_flax.analysis.photographs import percent
from se_flax.data.photographs import read_photograph
from se_flax.detection.draw import draw_detections, side_by_side
from se_flax.detection.loaded import LoadedDetector, Objects, find_objects
from se_flax.errors import UserError
from se_flax.runtime.paths import Path


class InPhotograph(NamedTuple):
    """The objects in a photograph.

    Attributes:
        path: of the photograph.
        objects: those with at least the score that was asked for.
    """

    path: Path
    objects: Objects


def objects_in(
    loaded: LoadedDetector,
    paths: Iterable[Path],
    threshold: float,
    skip: Callable[[Path, str], object],
) -> Iterator[InPhotograph]:
    """Yields the objects in photographs.

    Args:
        loaded: the detector.
        paths: of the photographs.
        threshold: lowest score of an object.
        skip: called with the path of each photograph that cannot be read, and the reason.

    Raises:
        UserError: if the detector's output is not finite.
    """
    read: list[Path] = []

    def photographs() -> Iterator[np.ndarray]:
        for path in paths:
            try:
                photograph = read_photograph(path)
            except UserError as error:
                skip(path, str(error))
                continue
            read.append(path)
            yield photograph

    for objects in find_objects(loaded, photographs()):
        yield InPhotograph(read.pop(), objects.above(threshold))


def line_of(found: InPhotograph, as_json: bool) -> str:
    """Returns what is printed of a photograph."""
    path, objects = os.fsencode(found.path).decode(errors="replace"), found.objects
    if as_json:
        values = {"boxes": objects.boxes, "scores": objects.scores, "labels": objects.labels}
        values = {name: each.tolist() for name, each in values.items()}
        return json.dumps({"file": path, "classes": objects.classes, **values})
    pairs = zip(objects.classes, objects.scores, strict=True)
    each = ", ".join(f"{percent(score)} {name}" for name, score in pairs)
    return f"{path}: {each or 'no objects'}"


def draw_objects(loaded: LoadedDetector, found: Sequence[InPhotograph]) -> Image.Image:
    """Returns a picture of photographs with the objects in them.

    Args:
        loaded: the detector.
        found: the objects of at least one photograph.

    Raises:
        UserError: if a photograph cannot be read any more.
    """
    return side_by_side(
        [
            draw_detections(
                read_photograph(each.path),
                each.objects.boxes,
                each.objects.labels,
                each.objects.scores,
                loaded.classes,
                threshold=0,
            )
            for each in found
        ],
        height=480,
        columns=4,
    )
