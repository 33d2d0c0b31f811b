"""Images and boxes of TFDS data sets, such as `coco/2017` and `voc/2007`."""

import dataclasses
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from se_flax.data.sources import digest_of_files, encoded_records, prepared_builder
from se_flax.detection.annotations import Annotations, Categories
from se_flax.detection.classes import coco_classes
from se_flax.errors import UserError
from se_flax.runtime.compiler import cache_dir

_FIELDS = [field.name for field in dataclasses.fields(Annotations)]


class TfdsBoxes:
    """A split of a TFDS data set with boxes (see `AnnotatedImages`).

    The boxes of all images are read when it is created, and kept in the cache
    (`se_flax.runtime.compiler.cache_dir`) for the next time. Objects that are marked as difficult
    (PASCAL VOC) are treated as crowds: they are not trained on, and detections of them count
    neither as right nor as wrong. TFDS has rounded the areas of COCO's objects to whole pixels,
    which can move an object from one class of sizes to the next.

    Attributes:
        categories: the classes. COCO's have the ids of cocodataset.org, others are numbered from 1.
        annotations: the boxes. Images without an id of their own are numbered from 0.

    Args:
        name: name of the data set.
        split: name of the split, or a TFDS split expression, for example "validation[:100]".
        data_dir: see `se_flax.data.load_dataset`.

    Raises:
        UserError: if the data set or split does not exist, has no images with boxes, or is neither
            prepared nor downloadable.
    """

    def __init__(self, name: str, split: str, data_dir: str | None = None):
        builder = prepared_builder(name, data_dir)
        features = builder.info.features
        has_objects = {"image", "objects"} <= set(features)
        if not has_objects or not {"bbox", "label"} <= set(features["objects"].keys()):
            raise UserError(
                f'the data set "{name}" does not have images with boxes; choose one that does, '
                "such as coco/2017"
            )
        names = tuple(features["objects"]["label"].names)
        is_coco = name.partition("/")[0] == "coco" and len(names) == len(coco_classes())
        # TFDS numbers COCO's categories from 0 to 79.
        ids = tuple(coco_classes()) if is_coco else tuple(range(1, len(names) + 1))
        self.categories = Categories(ids, names)
        self._name = f"{name} {split}"
        self._source = encoded_records(name, builder, split)
        self.annotations = _kept(builder, split, self._source)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> bytes:
        return self._source[i]["image"]

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return f"image {i} of {self._name}"


def annotations_of(records: Sequence[Mapping[str, Any]]) -> Annotations:
    """Returns the annotations of TFDS records.

    Args:
        records: each with an encoded `image` and `objects`, which have `label`, `bbox` (top, left,
            bottom and right as fractions of the image), and possibly `area`, `is_crowd` or
            `is_difficult`.
    """
    ids, sizes, per_image, columns = [], [], [], []
    for i, record in enumerate(records):
        with Image.open(io.BytesIO(record["image"])) as image:  # reads only the header
            width, height = image.size
        objects = record["objects"]
        scale = np.array([height, width] * 2, np.float64)
        top, left, bottom, right = (np.reshape(objects["bbox"], (-1, 4)) * scale).T
        sides = right - left, bottom - top
        areas = objects.get("area", sides[0] * sides[1])
        crowds = objects.get("is_crowd", objects.get("is_difficult", np.zeros(len(top))))
        columns.append(np.stack([left, top, *sides, areas, objects["label"], crowds]))
        ids.append(int(record.get("image/id", i)))
        sizes.append((height, width))
        per_image.append(len(top))
    values = np.concatenate(columns, axis=1)
    return Annotations(
        image_ids=tuple(ids),
        sizes=np.array(sizes, np.int32),
        starts=np.concatenate([[0], np.cumsum(per_image)]),
        rectangles=values[:4].T.copy(),
        areas=values[4],
        labels=values[5].astype(np.int32) + 1,
        crowds=values[6].astype(bool),
    )


def _kept(builder: Any, split: str, records: Sequence[Mapping[str, Any]]) -> Annotations:
    """Returns the annotations of a split from the cache, or reads them and adds them to it."""
    kept = cache_dir() / "boxes" / f"{builder.name}-{split}-{digest_of_files(builder)}.npz"
    try:
        with np.load(kept) as arrays:
            values = {name: arrays[name] for name in arrays}
        return Annotations(tuple(values.pop("image_ids").tolist()), **values)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not kept, or damaged
        print(f"reading the boxes of {len(records):,} images of {builder.name}", flush=True)
        result = annotations_of(records)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, **{name: getattr(result, name) for name in _FIELDS})
        partial.replace(kept)
    except OSError as error:  # disk full or no permission
        print(f"the boxes of {builder.name} cannot be kept, so they will be read again: {error}")
    return result
