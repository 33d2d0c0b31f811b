"""The interface of a data set, whether its images are stored on the devices or streamed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sized
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int, UInt8

from se_flax import rng
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.errors import UserError

# Inputs of a step: arrays that all devices share, and arrays [devices, ...], one row per device.
Inputs = tuple[Any, Any]
HostLabels = Int[np.ndarray, " b"] | UInt8[np.ndarray, "b classes"]
HostImages = tuple[UInt8[np.ndarray, "b h w c"], HostLabels]


@runtime_checkable
class TrainFeed(Protocol):
    """The inputs of a run's training steps."""

    def inputs(self, step: int) -> Inputs:
        """Returns the inputs of a step. If images are on the devices, all steps share them."""

    def prefetch(self, step: int) -> None:
        """Reads the inputs of the next step while the devices compute."""

    def close(self) -> None:
        """Stops prefetching."""


@runtime_checkable
class EvalFeed(Protocol):
    """The inputs of an evaluation; they contain every image of a split exactly once."""

    def __len__(self) -> int:
        """Returns the number of batches."""

    def __iter__(self) -> Iterator[Inputs]: ...


@runtime_checkable
class RunDataset(Protocol):
    """What a run needs of a data set, for whatever task.

    Attributes:
        on_device: whether the images are stored on the devices. If so, one dispatch can run
            several steps, and the networks of several seeds can share their inputs.
    """

    on_device: ClassVar[bool]

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, on a scale of 0 to 1."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, on a scale of 0 to 1."""

    @property
    def horizontal_flip(self) -> bool:
        """Whether a flip preserves an image's class (for digits it does not)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""

    @property
    def splits(self) -> Mapping[str, Sized]:
        """The existing splits by name: "train", "test" and possibly "validation"."""

    def hold_out(self, fraction: float) -> "RunDataset":
        """Returns a data set with a fraction of "train" moved to "validation"; see `held_out`."""

    def train_feed(
        self, batch_size: int, seed: int, total_steps: int, num_feeds: int = 1
    ) -> TrainFeed:
        """Returns the inputs of a run's training steps.

        Args:
            batch_size: total batch size, over all devices.
            seed: seed of the run.
            total_steps: length of the run, in steps.
            num_feeds: number of feeds that are read in parallel and share cores and memory.
        """

    def eval_feed(self, split: str, batch_size: int) -> EvalFeed:
        """Returns the inputs of an evaluation.

        Args:
            split: name of a split.
            batch_size: total batch size, over all devices; rounded up to a multiple of their
                number.
        """


@runtime_checkable
class ImageDataset(RunDataset, Protocol):
    """A classification data set.

    If its images can have several classes, or none, it also has `multi_label = True`, and its
    labels are uint8 [n, num_classes]: 1 for the classes of an image, and 0 for the others.

    Attributes:
        on_device: see `RunDataset`.
    """

    def train_batch(
        self,
        preprocessing: Preprocessing,
        batch_size: int,
        shared: Any,
        own: Any,
        seed: rng.Seed,
        step: Int[Array, ""],
    ) -> Batch:
        """Returns a device's share of a step's batch; runs inside the jitted step."""

    def eval_batch(self, preprocessing: Preprocessing, shared: Any, own: Any) -> Batch:
        """Returns a device's share of an evaluation batch; runs inside the jitted step."""

    def host_images(self, split: str, batch_size: int) -> Iterator[HostImages]:
        """Yields batches of a split in order: cropped images, not normalised, and labels."""


def is_multi_label(images: Any) -> bool:
    """Whether an image of a data set, or of a source, can have several classes, or none.

    Only what has an attribute `multi_label` can.
    """
    return bool(getattr(images, "multi_label", False))


def known_labels(split: Any) -> Int[np.ndarray, "n ..."] | UInt8[np.ndarray, "n classes"] | None:
    """Returns the labels of a split's images in order; None if only its images have them."""
    labels = getattr(split, "labels", None)
    return None if labels is None else np.asarray(labels)


def check_labels(dataset: RunDataset, multi_label: bool) -> None:
    """Raises `UserError` unless images have several classes where the config says so.

    Args:
        dataset: of the run.
        multi_label: `config.dataset.multi_label`.
    """
    if is_multi_label(dataset) != multi_label:
        several = "several classes for an image" if not multi_label else "one class for each image"
        needed = (
            'set config.dataset.multi_label=True and config.loss="bce"'
            if not multi_label
            else "set it to False"
        )
        raise UserError(
            f"{dataset.name} has {several}, but config.dataset.multi_label={multi_label}; {needed}"
        )


def num_batches(size: int, batch_size: int) -> int:
    """Returns the number of batches that hold each of `size` images once; the last may be short."""
    return -(-size // batch_size)


def present(**splits: Any) -> dict[str, Any]:
    """Returns the splits that are not None."""
    return {name: split for name, split in splits.items() if split is not None}


def normalized_by(
    dataset: RunDataset, mean: tuple[float, ...], std: tuple[float, ...]
) -> RunDataset:
    """Returns a data set with another mean and standard deviation.

    Raises:
        UserError: if they do not fit the images, or the data set is of a user's own class.
    """
    if (tuple(dataset.mean), tuple(dataset.std)) == (mean, std):
        return dataset
    channels = dataset.image_shape[-1]
    if len(mean) != channels:
        raise UserError(
            f"config.dataset.mean={mean} and config.dataset.std={std} must have a value for each "
            f"channel of {dataset.name}, which has {channels}"
        )
    if not dataclasses.is_dataclass(dataset) or isinstance(dataset, type):
        raise UserError(
            f"{dataset.name} has the mean {tuple(dataset.mean)} and std {tuple(dataset.std)}, but "
            f"the run config.dataset.mean={mean} and config.dataset.std={std}; give both the same"
        )
    return dataclasses.replace(dataset, mean=mean, std=std)


def repeating(dataset: RunDataset, repeats: int) -> RunDataset:
    """Returns a data set whose training batches have each image several times.

    Args:
        dataset: the data set.
        repeats: `config.augment.repeats`.

    Raises:
        UserError: if the data set, of a user's own class, has no field `repeats`.
    """
    if repeats == 1:
        return dataset
    if not dataclasses.is_dataclass(dataset) or not hasattr(dataset, "repeats"):
        raise UserError(
            f"config.augment.repeats={repeats} has no effect on {dataset.name}, whose class has no "
            "field repeats; leave it at 1"
        )
    return dataclasses.replace(dataset, repeats=repeats)


def held_out(
    name: str, splits: Mapping[str, Sized], fraction: float
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Returns the indices of the training images to keep and of those to hold out.

    The choice is random but always the same.

    Args:
        name: name of the data set, for messages.
        splits: the data set's splits by name.
        fraction: fraction of the training images to hold out.

    Raises:
        UserError: if a validation split exists already, or one of the two splits would be empty.
    """
    if "validation" in splits:
        raise UserError(f"{name} already has a validation split; set validation_fraction to 0")
    size = len(splits["train"])
    count = round(fraction * size)
    if not 0 < count < size:
        raise UserError(
            f"validation_fraction={fraction} of {size} training images leaves "
            "one of the two splits empty; choose a fraction that leaves images in both"
        )
    order = rng.generator(0, rng.Stream.HOLD_OUT).permutation(size)
    # Both splits keep the original order of the images.
    return np.sort(order[count:]), np.sort(order[:count])
