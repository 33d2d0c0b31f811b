"""What a run needs of a data set, whether its images live on the devices or are streamed."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Int, UInt8

from se_flax import rng
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.errors import UserError

# What a step is given: arrays that all devices share, and arrays [devices, ...] of their own.
Inputs = tuple[Any, Any]
HostImages = tuple[UInt8[np.ndarray, "b h w c"], Int[np.ndarray, " b"]]


@runtime_checkable
class TrainFeed(Protocol):
    """The inputs of a run's training steps."""

    def inputs(self, step: int) -> Inputs:
        """Returns the inputs of the steps from a step on (of one, if images are streamed)."""

    def prefetch(self, step: int) -> None:
        """Reads the inputs of a step ahead, while the devices compute."""

    def close(self) -> None:
        """Ends what reads ahead."""


@runtime_checkable
class EvalFeed(Protocol):
    """The inputs of an evaluation, which hold every image of a split once."""

    def __len__(self) -> int:
        """Returns the number of batches."""

    def __iter__(self) -> Iterator[Inputs]: ...


@runtime_checkable
class ImageDataset(Protocol):
    """A classification data set.

    Attributes:
        on_device: whether the images live on the devices. Then several steps can be given to the
            devices at once, and networks of several seeds take the same inputs.
    """

    on_device: ClassVar[bool]

    @property
    def name(self) -> str:
        """What the data set is called."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, on a scale of 0 to 1."""

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, on a scale of 0 to 1."""

    @property
    def horizontal_flip(self) -> bool:
        """Whether a flipped image keeps its meaning (of a digit it does not)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of each class."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image as the network sees it."""

    @property
    def splits(self) -> Mapping[str, Sized]:
        """The splits there are: "train", "validation" and "test"."""

    def hold_out(self, fraction: float) -> "ImageDataset":
        """Moves a fraction of "train" to "validation" (see `held_out`)."""

    def train_feed(
        self, batch_size: int, seed: int, total_steps: int, num_feeds: int = 1
    ) -> TrainFeed:
        """Returns the inputs of a run's steps.

        Args:
            batch_size: over all devices.
            seed: of the run.
            total_steps: length of the run.
            num_feeds: how many feeds are read in parallel, and share cores and memory.
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

    def eval_feed(self, split: str, batch_size: int) -> EvalFeed:
        """Returns the inputs of an evaluation.

        Args:
            split: one of `splits`.
            batch_size: over all devices; rounded to a multiple of their number.
        """

    def eval_batch(self, preprocessing: Preprocessing, shared: Any, own: Any) -> Batch:
        """Returns a device's share of a batch to evaluate; runs inside the jitted step."""

    def host_images(self, split: str, batch_size: int) -> Iterator[HostImages]:
        """Yields the images of a split, in order, as the network sees them, and their labels."""


def present(**splits: Sized | None) -> dict[str, Sized]:
    """Returns those splits that are not None."""
    return {name: split for name, split in splits.items() if split is not None}


def held_out(
    name: str, splits: Mapping[str, Sized], fraction: float
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Returns which training images stay, and which are held out: the same every time.

    Args:
        name: of the data set, for messages.
        splits: of the data set.
        fraction: of the training images that is held out.

    Raises:
        UserError: if there is a validation split already, or one of the two would be empty.
    """
    if "validation" in splits:
        raise UserError(f"{name} has a validation split of its own; leave validation_fraction at 0")
    size = len(splits["train"])
    count = round(fraction * size)
    if not 0 < count < size:
        raise UserError(
            f"validation_fraction={fraction} of {size} training images leaves "
            "one of the two splits empty; give a fraction between 0 and 1"
        )
    order = rng.generator(0, rng.Stream.HOLD_OUT).permutation(size)
    # In the original order, so that neither split depends on how it was drawn.
    return np.sort(order[count:]), np.sort(order[:count])
