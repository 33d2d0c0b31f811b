"""Data sets whose images are stored on the devices; batches are made inside the jitted step.

The batch of a step is a function of (seed, step) alone. Resuming needs no saved state, and the
batch does not depend on the number of devices or of steps per dispatch.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from se_flax import rng
from se_flax.data.dataset import HostImages, Inputs, held_out, num_batches, present
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.data.repeats import image_positions
from se_flax.data.shuffle import shuffled
from se_flax.errors import UserError
from se_flax.parallel import batch_slots, divisible, replicate, share_out


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [n, height, width, channels].
        labels: class numbers from 0, int32 [n]; for images of several classes, uint8 [n, classes]
            of 0 and 1.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"] | UInt8[np.ndarray, "n classes"]

    def __post_init__(self):
        object.__setattr__(self, "images", np.asarray(self.images))
        labels = np.asarray(self.labels)
        yes_or_no = labels.ndim == 2 and np.isin(labels, (0, 1)).all()
        if not (yes_or_no or (np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1)):
            raise UserError(
                "labels must be integers with shape [n], or 0 and 1 with shape [n, classes] for "
                f"images of several classes, not {labels.dtype} {list(labels.shape)}"
            )
        object.__setattr__(self, "labels", labels.astype(np.uint8 if yes_or_no else np.int32))
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise UserError(
                "images must be uint8 with shape [n, height, width, channels], "
                f"not {self.images.dtype} {list(self.images.shape)}"
            )
        if len(self.images) != len(self.labels) or not len(self.images):
            raise UserError(
                f"got {len(self.images)} images but {len(self.labels)} labels; give at least one "
                "image, and a label for each"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Split":
        return Split(self.images[chosen], self.labels[chosen])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification data set, held in memory (see `dataset.ImageDataset`).

    Attributes:
        name: name of the data set.
        train: training images.
        test: test images.
        class_names: name of each class, in the order of the labels.
        mean: mean of each channel of the training images, on a scale of 0 to 1.
        std: standard deviation of each channel, on the same scale.
        horizontal_flip: whether a horizontal flip preserves an image's class (for digits it does
            not).
        validation: images held out of `train`, or None.
        repeats: copies of a training image in a batch; see `repeats.image_positions`.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    horizontal_flip: bool
    validation: Split | None = None
    repeats: int = 1
    on_device: ClassVar[bool] = True

    def __post_init__(self):
        for name, split in self.splits.items():
            if split.images.shape[1:] != self.image_shape:
                raise UserError(
                    f"{self.name} {name}: images have shape {list(split.images.shape[1:])}, but "
                    f"training images have {list(self.image_shape)}; give all splits the same shape"
                )
            labels = split.labels
            if labels.ndim == 2 or self.multi_label:
                expected = [len(labels), self.num_classes]
                if not self.multi_label or list(labels.shape) != expected:
                    raise UserError(
                        f"{self.name} {name}: labels have the shape {list(labels.shape)}; for "
                        f"images of several classes, those of all splits must have one column for "
                        f"each class, here {expected}"
                    )
                continue
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise UserError(
                    f"{self.name} {name}: labels run from {labels.min()} to {labels.max()}, "
                    f"but there are {self.num_classes} classes, numbered from 0"
                )
        channels = self.image_shape[-1]
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != channels or not all(0 <= value <= 1 for value in values):
                raise UserError(
                    f"{self.name}: {name} must be {channels} numbers from 0 to 1, one per channel, "
                    f"not {values}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several classes, or none."""
        return self.train.labels.ndim == 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.train.images.shape[1:]

    @property
    def splits(self) -> dict[str, Split]:
        """The existing splits by name."""
        return present(train=self.train, validation=self.validation, test=self.test)

    def hold_out(self, fraction: float) -> "Dataset":
        """Returns a data set with a fraction of `train` moved to `validation`; see `held_out`."""
        kept, held = held_out(self.name, self.splits, fraction)
        return dataclasses.replace(self, train=self.train[kept], validation=self.train[held])

    def train_feed(
        self, batch_size: int, seed: int, total_steps: int, num_feeds: int = 1
    ) -> "MemoryTrainFeed":
        """Returns the inputs of a run's steps: all images, and each device's slots in a batch."""
        return MemoryTrainFeed(self.train, batch_size)

    def train_batch(
        self, preprocessing: Preprocessing, batch_size: int, shared: "DeviceSplit",
        own: Int[Array, " b"], seed: rng.Seed, step: Int[Array, ""],
    ) -> Batch:  # fmt: skip
        """Returns a device's share of a step's batch: the images in the slots `own`."""
        positions = step * batch_size + own
        images = image_positions(positions, batch_size, self.repeats, len(shared.labels))
        return train_batch(shared, preprocessing, seed, positions, images)

    def eval_feed(self, split: str, batch_size: int) -> "MemoryEvalFeed":
        """Returns the inputs of an evaluation: all images, and each device's positions."""
        return MemoryEvalFeed(self.splits[split], batch_size)

    def eval_batch(
        self, preprocessing: Preprocessing, shared: "DeviceSplit", own: Int[Array, " b"]
    ) -> Batch:
        """Returns a device's share of an evaluation batch: the images at positions `own`."""
        return eval_batch(shared, preprocessing, own)

    def host_images(self, split: str, batch_size: int) -> Iterator[HostImages]:
        """Yields batches of images and labels of a split, in order."""
        images = self.splits[split]
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            yield batch.images, batch.labels


@flax.struct.dataclass
class DeviceSplit:
    """A split as arrays on a device.

    An image is a row of `pixels`, because TPUs pad the last two axes of an array to multiples of 8
    and 128: to read single images of 32x32x3, a program would copy all to four times the memory.

    Attributes:
        pixels: uint8 [n, h * w * c].
        labels: of `Split`.
        image_shape: h, w and c.
    """

    pixels: UInt8[Array, "n hwc"]
    labels: Int[Array, " n"] | UInt8[Array, "n classes"]
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, split: Split) -> "DeviceSplit":
        """Wraps a split that is still on the host; `jax.device_put` moves it to a device."""
        n, *image_shape = split.images.shape
        return cls(split.images.reshape(n, -1), split.labels, tuple(image_shape))

    def images(self, places: Int[Array, " b"]) -> UInt8[Array | np.ndarray, "b h w c"]:
        """Returns the images at some places."""
        return self.pixels[places].reshape(-1, *self.image_shape)


class MemoryTrainFeed:
    """All training images, and the slots of the batch that each device fills."""

    def __init__(self, split: Split, batch_size: int):
        self._inputs = replicate(DeviceSplit.of(split)), share_out(batch_slots(batch_size))

    def inputs(self, step: int) -> Inputs:
        """Returns the inputs, the same for all steps."""
        return self._inputs

    def prefetch(self, step: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class MemoryEvalFeed:
    """All images of a split, and the positions in it that each device evaluates."""

    def __init__(self, split: Split, batch_size: int):
        self._size, self._batch_size = len(split), divisible(min(batch_size, len(split)))
        self._split, self._slots = replicate(DeviceSplit.of(split)), batch_slots(self._batch_size)

    def __len__(self) -> int:
        return num_batches(self._size, self._batch_size)

    def __iter__(self) -> Iterator[Inputs]:
        for i in range(len(self)):
            yield self._split, self._slots + i * self._batch_size


def train_batch(
    split: DeviceSplit,
    preprocessing: Preprocessing,
    seed: rng.Seed,
    positions: Int[Array, " b"],
    images: Int[Array, " b"] | None = None,
) -> Batch:
    """Returns the augmented training images at positions of the run's endless stream.

    Position p is the p-th image of the run, counted over all steps and devices. Each block of n
    positions contains each of the n images once. Image and augmentation depend only on (seed, p).

    Args:
        split: the training images.
        preprocessing: augments them.
        seed: of the run.
        positions: positions in the stream, which decide the augmentation.
        images: positions that decide which images these are, if others; see
            `repeats.image_positions`.
    """
    places = positions if images is None else images
    chosen = shuffled(rng.key(seed, rng.Stream.ORDER), places, len(split.labels))
    return preprocessing.train(seed, split.images(chosen), split.labels[chosen], positions)


def eval_batch(
    split: DeviceSplit, preprocessing: Preprocessing, positions: Int[Array, " b"]
) -> Batch:
    """Returns the images at positions of a split; positions past its end are masked."""
    n = len(split.labels)
    chosen = jnp.minimum(positions, n - 1)
    return Batch(preprocessing.normalize(split.images(chosen)), split.labels[chosen], positions < n)
