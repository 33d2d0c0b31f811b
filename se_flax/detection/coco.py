"""Images and boxes in COCO's format: a folder of images, and a JSON file with their annotations.

The format is described at https://cocodataset.org/#format-data (object detection).
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from se_flax.detection.annotations import Annotations, Categories
from se_flax.errors import UserError
from se_flax.runtime.paths import Path, read_bytes, to_path

# Where annotations are looked for, in this order. The first has the names of COCO's own files.
_PATTERNS = (
    "annotations/instances_{}*.json",
    "annotations/{}*.json",
    "instances_{}*.json",
    "{}*.json",
    "{}/*.json",
)
_NAMES = {"train": ("train",), "val": ("val", "valid", "validation")}
_LAYOUT = "annotations/instances_train2017.json, train2017/, and the same for val2017"


@dataclasses.dataclass(frozen=True, eq=False)
class CocoImages:
    """Images of a folder and their annotations (see `AnnotatedImages`).

    Attributes:
        folder: of the images.
        file_names: path of each image in the folder.
        categories: the classes, in the order of their ids.
        annotations: the boxes.
    """

    folder: Path
    file_names: tuple[str, ...]
    categories: Categories
    annotations: Annotations

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, i: int) -> bytes:
        return read_bytes(self.folder / self.file_names[i])

    def describe(self, i: int) -> str:
        """Returns the path of an image."""
        return str(self.folder / self.file_names[i])


def read_coco(
    directory: str | os.PathLike[str], by_id: bool = False
) -> tuple[CocoImages, CocoImages]:
    """Reads the training and validation images of a folder.

    The annotations are, for example, in `annotations/instances_train2017.json` (as downloaded from
    cocodataset.org), `train.json`, or `train/_annotations.coco.json`. The images are in a folder
    with the name of the file (`train2017/`, `train/`), which can be in `images/`, in `images/`
    itself, or next to the annotations.

    Args:
        directory: on a disk or in a bucket.
        by_id: whether to number the classes by their ids; see `Categories.by_id`.

    Returns:
        All images of both, also those without boxes. They have the same classes.

    Raises:
        UserError: if files are missing or not in COCO's format, or both have different categories.
    """
    train, val = (read_split(directory, split, by_id) for split in _NAMES)
    if train.categories != val.categories:
        raise UserError(
            f"the training and validation images of {directory} have different categories; give "
            "both the same names and ids"
        )
    return train, val


def read_split(directory: str | os.PathLike[str], split: str, by_id: bool = False) -> CocoImages:
    """Reads the training or the validation images of a folder, which need not have the others.

    Args:
        directory, by_id: see `read_coco`.
        split: "train" or "val".

    Raises:
        UserError: see `read_coco`.
    """
    directory = to_path(directory)
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; give one with {_LAYOUT}")
    file = _annotation_file(directory, split)
    return read_annotations(file, _image_folder(directory, file, split), by_id)


def read_annotations(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str] | Sequence[Path],
    by_id: bool = False,
) -> CocoImages:
    """Reads a JSON file in COCO's format.

    Args:
        file: with the keys `images`, `annotations` and `categories`. Annotations without
            `iscrowd` are not crowds, and without `area` have that of their box.
        folder: of the images; of several, the first one that has the first image.
        by_id: see `read_coco`.

    Raises:
        UserError: if an image is missing, the file is not in COCO's format, or an annotation is of
            an image or class that the file does not have.
    """
    file = to_path(file)
    try:
        content = json.loads(read_bytes(file))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; give annotations in COCO's format") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}); repair it") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in keys):
        raise UserError(
            f"{file} is not in COCO's format, which has lists named {', '.join(keys)}; give one "
            "that is"
        )
    try:
        images = _images(file, content["images"])
        categories = _categories(file, content["categories"])
        categories = categories.by_id() if by_id else categories
        annotations = _annotations(file, images, content["annotations"], categories)
    except (KeyError, TypeError) as error:
        fault = f"has no {error}" if isinstance(error, KeyError) else f"is wrong ({error})"
        raise UserError(f"an entry of {file} {fault}; give annotations in COCO's format") from error
    file_names = tuple(str(image["file_name"]) for image in images.values())
    folders = [to_path(folder)] if isinstance(folder, (str, os.PathLike)) else list(folder)
    return CocoImages(_folder_of(file, file_names, folders), file_names, categories, annotations)


def _annotation_file(directory: Path, split: str) -> Path:
    """Returns the file with the annotations of a split."""
    for pattern in _PATTERNS:
        found = [file for name in _NAMES[split] for file in directory.glob(pattern.format(name))]
        found = sorted({str(file): file for file in found}.values(), key=str)
        if len(found) > 1:
            raise UserError(
                f"{directory} has several files with {split} annotations: "
                f"{', '.join(str(file.relative_to(directory)) for file in found)}; keep one of them"
            )
        if found:
            return found[0]
    raise UserError(
        f"{directory} has no file with {split} annotations; it must have {_LAYOUT}, or similar "
        f"names, such as {split}.json and {split}/"
    )


def _image_folder(directory: Path, file: Path, split: str) -> list[Path]:
    """Returns the folders where the images of an annotation file can be."""
    names = dict.fromkeys([file.stem.removeprefix("instances_"), *_NAMES[split]])
    inside = [directory / part / name for name in names for part in ("", "images")]
    return [*inside, file.parent, directory / "images", directory]


def _images(file: Path, entries: Sequence[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    """Returns the entries of the images by their ids."""
    if not entries:
        raise UserError(f"{file} lists no images; give annotations of at least one")
    images = {image["id"]: image for image in entries}
    if len(images) < len(entries):
        raise UserError(f"{file} gives several images the same id; number them anew")
    for image in entries:
        sides = image["height"], image["width"]
        if not all(isinstance(pixels, int) and pixels > 0 for pixels in sides):
            raise UserError(
                f"{file} gives image {image['id']} the height and width {sides}; give its pixels"
            )
    return images


def _categories(file: Path, entries: Sequence[Mapping[str, Any]]) -> Categories:
    names = {category["id"]: str(category["name"]) for category in entries}
    if len(names) < max(1, len(entries)) or any(not isinstance(each, int) for each in names):
        raise UserError(f"{file} must list categories, each with a whole number of its own as id")
    ids = tuple(sorted(names))
    return Categories(ids, tuple(names[each] for each in ids))


def _annotations(
    file: Path,
    images: Mapping[Any, Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    categories: Categories,
) -> Annotations:
    """Returns the annotations in the order of the images."""
    place = {each: i for i, each in enumerate(images)}
    label = {each: c for c, each in enumerate(categories.ids, 1) if categories.names[c - 1]}
    rows = list(_rows(file, place, label, entries))
    image, rectangles, areas, labels, crowds = zip(*rows, strict=True) if rows else [()] * 5
    order = np.argsort(np.array(image, np.int64), kind="stable")
    per_image = np.bincount(np.array(image, np.int64), minlength=len(images))
    sides = [(entry["height"], entry["width"]) for entry in images.values()]
    return Annotations(
        image_ids=tuple(images),
        sizes=np.array(sides, np.int32),
        starts=np.concatenate([[0], np.cumsum(per_image)]),
        rectangles=np.array(rectangles, np.float64).reshape(-1, 4)[order],
        areas=np.array(areas, np.float64)[order],
        labels=np.array(labels, np.int32)[order],
        crowds=np.array(crowds, bool)[order],
    )


def _rows(
    file: Path,
    place: Mapping[Any, int],
    label: Mapping[int, int],
    entries: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[int, list[float], float, int, bool]]:
    """Yields image, rectangle, area, label and crowd of each annotation."""
    for i, entry in enumerate(entries):
        name = f"annotation {entry.get('id', i)} of {file}"
        image, category, rectangle = entry["image_id"], entry["category_id"], entry["bbox"]
        if image not in place:
            raise UserError(f"{name} is of image {image}, which the file does not list; add it")
        if category not in label:
            raise UserError(
                f"{name} is of category {category}, which the file does not list; add it"
            )
        if len(rectangle) != 4 or not all(map(math.isfinite, rectangle)):
            raise UserError(
                f"{name} has the bbox {rectangle}; it must be [left, top, width, height] in pixels"
            )
        area = entry.get("area", rectangle[2] * rectangle[3])
        yield place[image], rectangle, area, label[category], bool(entry.get("iscrowd", 0))


def _folder_of(file: Path, file_names: Sequence[str], folders: Sequence[Path]) -> Path:
    """Returns the folder that has the images; raises `UserError` if one of them is missing."""
    folder = next((each for each in folders if (each / file_names[0]).exists()), None)
    if folder is None:
        raise UserError(
            f"{file} lists the image {file_names[0]}, which is not in "
            f"{_either([each for each in folders if each.is_dir()] or folders[:1])}; put the "
            "images there"
        )
    found: dict[Path, set[str]] = {}
    for name in file_names:
        path = folder / name
        if path.parent not in found:  # one request for all images, which matters in a bucket
            exists = path.parent.is_dir()
            found[path.parent] = {each.name for each in path.parent.iterdir()} if exists else set()
        if path.name not in found[path.parent]:
            raise UserError(f"{file} lists the image {path}, which does not exist; add it")
    return folder


def _either(paths: Sequence[Path]) -> str:
    return " or ".join(map(str, paths))
