"""Images with annotated boxes: what a detector is trained on and evaluated against."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from se_flax.data.images import decode
from se_flax.errors import UserError

ImageId = int | str


@dataclasses.dataclass(frozen=True)
class Categories:
    """The classes of a data set. Class 0 is the background, and class c is `ids[c - 1]`.

    Attributes:
        ids: the data set's own number of each class; COCO's go to 90 and leave out ten.
        names: of the classes, without the background.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, including the background."""
        return len(self.ids) + 1

    def by_id(self) -> "Categories":
        """Returns the classes numbered by their ids, as those of torchvision's weights are.

        Numbers that are no category's id have the name "".

        Raises:
            UserError: if an id is below 1.
        """
        if min(self.ids) < 1:
            raise UserError(
                f"the categories have the id {min(self.ids)}, but classes can only be numbered by "
                "their ids if these are at least 1, as 0 is the background; number them anew"
            )
        names = dict(zip(self.ids, self.names, strict=True))
        ids = tuple(range(1, max(self.ids) + 1))
        return Categories(ids, tuple(names.get(each, "") for each in ids))


class Counts(NamedTuple):
    """What was found in annotations.

    Attributes:
        images: number of images.
        without_boxes: images without a box to train on.
        boxes: boxes to train on.
        crowds: boxes around crowds.
        clipped: boxes to train on that were cut off at the border of their image.
        degenerate: other boxes whose part inside the image has no width or no height.
    """

    images: int
    without_boxes: int
    boxes: int
    crowds: int
    clipped: int
    degenerate: int

    def __str__(self) -> str:
        return (
            f"{self.boxes:,} boxes in {self.images:,} images; not trained on are {self.crowds:,} "
            f"crowds, {self.degenerate:,} boxes without width or height inside their image, and "
            f"{self.without_boxes:,} images without other boxes"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """The sizes of images and the boxes in them, those of image i after those of image i - 1.

    Attributes:
        image_ids: the data set's own number or name of each image.
        sizes: height and width of each image, pixels.
        starts: index of the first box of each image, and then the number of boxes.
        rectangles: left, top, width and height of each box as it was annotated, pixels.
        areas: area of each object, square pixels. COCO's is that of its outline.
        labels: class of each box, from 1.
        crowds: whether a box is around a crowd.
    """

    image_ids: tuple[ImageId, ...]
    sizes: Int[np.ndarray, "n 2"]
    starts: Int[np.ndarray, " n+1"]
    rectangles: Float[np.ndarray, "m 4"]
    areas: Float[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    crowds: Bool[np.ndarray, " m"]

    @classmethod
    def of_nothing(cls) -> "Annotations":
        """Returns the annotations of no images."""
        none = np.zeros(0, np.int32)
        rows = np.zeros((0, 4))
        return cls((), np.zeros((0, 2), np.int32), np.zeros(1, int), rows, none, none, none > 0)

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def image_of(self) -> Int[np.ndarray, " m"]:
        """Index of the image of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @functools.cached_property
    def boxes(self) -> Float[np.ndarray, "m 4"]:
        """Left, top, right and bottom of each box, cut off at the borders of its image."""
        boxes = _corners(self.rectangles)
        most = self.sizes[self.image_of][:, [1, 0, 1, 0]].astype(np.float32)
        return np.clip(boxes, 0, most)

    @functools.cached_property
    def trained(self) -> Bool[np.ndarray, " m"]:
        """Whether a box is trained on: not a crowd, and with width and height in its image."""
        return ~self.crowds & (self.boxes[:, 2:] > self.boxes[:, :2]).all(axis=1)

    @functools.cached_property
    def trained_per_image(self) -> Int[np.ndarray, " n"]:
        """Number of boxes of each image that are trained on."""
        return np.bincount(self.image_of[self.trained], minlength=len(self))

    def truth(self, i: int) -> tuple[Float[np.ndarray, "k 4"], Int[np.ndarray, " k"]]:
        """Returns the boxes of image i that are trained on, as in `boxes`, and their classes."""
        rows = slice(self.starts[i], self.starts[i + 1])
        kept = self.trained[rows]
        return self.boxes[rows][kept], self.labels[rows][kept]

    def counts(self) -> Counts:
        """Counts images and boxes."""
        moved = (self.boxes != _corners(self.rectangles)).any(axis=1)
        return Counts(
            images=len(self),
            without_boxes=int(np.sum(self.trained_per_image == 0)),
            boxes=int(np.sum(self.trained)),
            crowds=int(np.sum(self.crowds)),
            clipped=int(np.sum(moved & self.trained)),
            degenerate=int(np.sum(~self.trained & ~self.crowds)),
        )

    def of_images(self, indices: Sequence[int] | Int[np.ndarray, " k"]) -> "Annotations":
        """Returns the annotations of some of the images."""
        indices = np.asarray(indices, np.int64)
        per_image = np.diff(self.starts)[indices]
        starts = np.concatenate([[0], np.cumsum(per_image)])
        rows = np.arange(starts[-1]) + np.repeat(self.starts[indices] - starts[:-1], per_image)
        return Annotations(
            tuple(self.image_ids[i] for i in indices),
            self.sizes[indices],
            starts,
            self.rectangles[rows],
            self.areas[rows],
            self.labels[rows],
            self.crowds[rows],
        )

    def in_coco_format(self, categories: Categories) -> dict[str, list[dict[str, Any]]]:
        """Returns the annotations as COCO's JSON has them, with all boxes as annotated.

        The boxes are numbered from 1, because pycocotools takes the number 0 for no box.

        Args:
            categories: the classes.
        """
        columns = (self.image_of, self.rectangles, self.areas, self.labels, self.crowds)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            "images": [
                {"id": each, "height": height, "width": width}
                for each, (height, width) in zip(self.image_ids, self.sizes.tolist(), strict=True)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": self.image_ids[image],
                    "category_id": categories.ids[label - 1],
                    "bbox": rectangle,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for number, (image, rectangle, area, label, crowd) in enumerate(rows, 1)
            ],
            "categories": [
                {"id": each, "name": name}
                for each, name in zip(categories.ids, categories.names, strict=True)
                if name
            ],
        }


def _corners(rectangles: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "m 4"]:
    """Returns left, top, right and bottom in float32, with torchvision's arithmetic."""
    boxes = rectangles.astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


@runtime_checkable
class AnnotatedImages(Protocol):
    """Images with annotated boxes, read one at a time."""

    @property
    def categories(self) -> Categories:
        """The classes."""

    @property
    def annotations(self) -> Annotations:
        """The boxes, and the images' sizes."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        """Returns image i, encoded or uint8 [h, w, 1 or 3]."""

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some of the images of another source.

    Attributes:
        source: the other source.
        indices: of the images in the other source.
    """

    source: AnnotatedImages
    indices: Int[np.ndarray, " n"]

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.source.categories

    @functools.cached_property
    def annotations(self) -> Annotations:
        """The boxes, and the images' sizes."""
        return self.source.annotations.of_images(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        return self.source[int(self.indices[i])]

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return self.source.describe(int(self.indices[i]))


def with_boxes(source: AnnotatedImages) -> AnnotatedImages:
    """Returns the images that have a box to train on.

    Detectron leaves out the others, those with only a crowd included, and so do torchvision's
    reference scripts, except that they keep images with only a crowd. Published results were
    trained so. An image without boxes would only show background, which all other images show as
    well. Evaluations keep such images, because anything that is found in them is wrong.

    Raises:
        UserError: if there is no such image.
    """
    kept = np.flatnonzero(source.annotations.trained_per_image)
    if not len(kept):
        raise UserError(
            f"none of the {len(source)} training images has a box that can be trained on; give "
            "annotations with boxes that are not crowds"
        )
    return source if len(kept) == len(source) else Subset(source, kept)


def read_image(source: AnnotatedImages, i: int) -> np.ndarray:
    """Returns an image of a source as RGB, uint8 [h, w, 3].

    Raises:
        UserError: if it cannot be decoded, or does not have the size that its annotations state.
        OSError: if it cannot be read.
    """
    try:
        encoded = source[i]
    except OSError as error:
        raise OSError(
            f"cannot read {source.describe(i)}: {error.strerror or error}; once that is repaired, "
            "the same command continues"
        ) from error
    try:
        image = decode(encoded)
    except UserError as error:
        raise UserError(f"cannot read {source.describe(i)}: {error}") from error
    height, width = source.annotations.sizes[i].tolist()
    if image.shape[:2] != (height, width):
        raise UserError(
            f"{source.describe(i)} has {image.shape[0]} x {image.shape[1]} pixels, but its "
            f"annotations are for {height} x {width}; give the image that was annotated"
        )
    return image
