"""Labelled images that are read one at a time."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from se_flax.data.dataset import HostLabels, is_multi_label, known_labels


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images with random access.

    Two more attributes are optional: `multi_label`, True if an image can have several classes, or
    none; and `labels`, those of all images in order.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Returns an image by these names:

        image: encoded, or uint8 [h, w, 1 or 3].
        label: its class, counted from 0; with `multi_label`, uint8 [number of classes], 1 for the
            classes of the image and 0 for the others.
        upright: if there, whether to turn the image as its EXIF orientation says.
        """

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """A subset of the images of another source.

    Attributes:
        source: the other source.
        indices: indices of the images in the other source.
    """

    source: ImageSource
    indices: Int[np.ndarray, " n"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.source.class_names

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several classes, or none."""
        return is_multi_label(self.source)

    @property
    def labels(self) -> HostLabels | None:
        """The labels of the images, if the other source has them."""
        labels = known_labels(self.source)
        return None if labels is None else labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[int(self.indices[i])]

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return self.source.describe(int(self.indices[i]))
