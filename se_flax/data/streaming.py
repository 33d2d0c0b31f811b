"""Data sets that do not fit in memory: their images are read when they are needed."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

from jaxtyping import Array, Int

from se_flax import rng
from se_flax.data.batches import HostBatch, eval_batches, host_images, train_batches
from se_flax.data.damage import Damage
from se_flax.data.dataset import (
    HostImages,
    Inputs,
    held_out,
    is_multi_label,
    num_batches,
    present,
)
from se_flax.data.image_source import ImageSource, Subset
from se_flax.data.images import Crop
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.parallel import divisible, share_out


@dataclasses.dataclass(frozen=True)
class StreamedDataset:
    """A classification data set that is read when needed (see `dataset.ImageDataset`).

    Attributes:
        name: name of the data set.
        train, test: training and test images.
        train_crop, eval_crop: crops for training and evaluation.
        mean, std: mean and standard deviation of each channel, on a scale of 0 to 1.
        horizontal_flip: whether a horizontal flip preserves an image's class.
        validation: images held out of `train`, or None.
        workers: number of processes that read images; 0 reads in threads.
        repeats: copies of a training image in a batch; see `repeats.image_positions`.
        earlier_crops: crops for training in equal parts of the run, before the last one, which has
            `train_crop` (progressive learning).
        damage: the damaged images that were met.
    """

    name: str
    train: ImageSource
    test: ImageSource
    train_crop: Crop
    eval_crop: Crop
    mean: tuple[float, ...]
    std: tuple[float, ...]
    horizontal_flip: bool = True
    validation: ImageSource | None = None
    workers: int = 0
    repeats: int = 1
    earlier_crops: tuple[Crop, ...] = ()
    damage: Damage = dataclasses.field(default_factory=Damage, compare=False)
    on_device: ClassVar[bool] = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return tuple(self.train.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several classes, or none."""
        return is_multi_label(self.train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input, in evaluation."""
        return (self.eval_crop.size, self.eval_crop.size, self.eval_crop.channels)

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Height and width of the images in each stage of the training."""
        return tuple(crop.size for crop in (*self.earlier_crops, self.train_crop))

    @property
    def splits(self) -> dict[str, ImageSource]:
        """The existing splits by name."""
        return present(train=self.train, validation=self.validation, test=self.test)

    def hold_out(self, fraction: float) -> "StreamedDataset":
        """Returns a data set with part of `train` in `validation`; see `dataset.held_out`."""
        kept, held = held_out(self.name, self.splits, fraction)
        return dataclasses.replace(
            self, train=Subset(self.train, kept), validation=Subset(self.train, held)
        )

    def train_feed(
        self, batch_size: int, seed: int, total_steps: int, num_feeds: int = 1
    ) -> "StreamedTrainFeed":
        """Returns the inputs of a run's steps, each a batch of images."""

        def batches_from(step):
            return train_batches(
                self.train, self.train_crop, batch_size, seed, step, total_steps,
                self.workers, num_feeds, self.damage, self.repeats,
                self.earlier_crops,
            )  # fmt: skip

        return StreamedTrainFeed(batches_from)

    def train_batch(
        self, preprocessing: Preprocessing, batch_size: int, shared: None, own: HostBatch,
        seed: rng.Seed, step: Int[Array, ""],
    ) -> Batch:  # fmt: skip
        """Returns a device's share of a step's batch."""
        return preprocessing.train(seed, own.images, own.labels, own.positions)

    def eval_feed(self, split: str, batch_size: int) -> "StreamedEvalFeed":
        """Returns the inputs of an evaluation, each a batch of images."""
        source, crop = self.splits[split], self.eval_crop
        return StreamedEvalFeed(source, crop, batch_size, self.workers, self.damage)

    def eval_batch(self, preprocessing: Preprocessing, shared: None, own: HostBatch) -> Batch:
        """Returns a device's share of an evaluation batch."""
        return eval_batch(preprocessing, shared, own)

    def host_images(self, split: str, batch_size: int) -> Iterator[HostImages]:
        """Yields batches of cropped images and labels of a split, in order."""
        source, crop = self.splits[split], self.eval_crop
        return host_images(source, crop, batch_size, self.workers, self.damage)


class StreamedTrainFeed:
    """Training batches on the devices, prefetched by one step.

    Args:
        batches_from: function of a step that yields the host's batches from that step on.
    """

    def __init__(self, batches_from: Callable[[int], Iterator[HostBatch]]):
        self._batches_from = batches_from
        self._batches: Iterator[HostBatch] | None = None
        self._ahead: tuple[int, HostBatch] | None = None

    def inputs(self, step: int) -> Inputs:
        """Returns the batch of a step.

        Raises:
            IndexError: if the run has no such step.
        """
        if self._ahead is None or self._ahead[0] != step:
            self.close()
            self.prefetch(step)
        if self._ahead is None:
            raise IndexError(f"the run has no step {step}")
        return None, self._ahead[1]

    def prefetch(self, step: int) -> None:
        """Copies the batch of `step`, the next one, to the devices; past the end, does nothing."""
        if self._batches is None:
            self._batches = self._batches_from(step)
        batch = next(self._batches, None)
        self._ahead = None if batch is None else (step, share_out(batch.by_device()))

    def close(self) -> None:
        """Stops reading."""
        if self._batches is not None:
            self._batches.close()
        self._batches = self._ahead = None


class StreamedEvalFeed:
    """Evaluation batches, which contain every image of a source that is not damaged exactly once.

    Args:
        source: the images.
        crop: crop that gives all images one size.
        batch_size: most images in a batch, over all devices; rounded up to a multiple of their
            number. All batches have the same size, the smallest that needs no more batches.
        workers: see `StreamedDataset`.
        damage: counts the damaged images.
    """

    def __init__(
        self, source: ImageSource, crop: Crop, batch_size: int, workers: int = 0,
        damage: Damage | None = None,
    ):  # fmt: skip
        self._source, self._crop, self._workers = source, crop, workers
        self._damage = Damage() if damage is None else damage
        self._count = num_batches(len(source), divisible(batch_size))
        self._batch_size = divisible(-(-len(source) // self._count))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Inputs]:
        for batch in eval_batches(
            self._source, self._crop, self._batch_size, self._workers, self._damage
        ):
            yield None, batch.by_device()


def eval_batch(preprocessing: Preprocessing, shared: None, own: HostBatch) -> Batch:
    """Returns a device's share of an evaluation batch, normalised."""
    return Batch(preprocessing.normalize(own.images), own.labels, own.mask)
