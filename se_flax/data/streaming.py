"""Images that do not fit in memory, read as they are needed."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, runtime_checkable

import cv2
import flax.struct
import jax
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Int, UInt8

from se_flax import rng
from se_flax.data.dataset import HostImages, Inputs, held_out, present
from se_flax.data.images import Crop, decode
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.errors import UserError
from se_flax.parallel import divisible, share_out

_BYTES_AHEAD = 2**31


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images, one at a time, in any order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Returns `image`, encoded or uint8 [h, w, 1 or 3], and `label`, from 0."""

    def describe(self, i: int) -> str:
        """Returns what to call an image in a message."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some of the images of another source.

    Attributes:
        source: the other source.
        indices: of its images.
    """

    source: ImageSource
    indices: Int[np.ndarray, " n"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class."""
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[int(self.indices[i])]

    def describe(self, i: int) -> str:
        """Returns what to call an image in a message."""
        return self.source.describe(int(self.indices[i]))


@flax.struct.dataclass
class HostBatch:
    """This host's share of a batch; a pytree.

    Attributes:
        images: uint8 [b, size, size, 3].
        labels: int32 [b].
        positions: of the images in the run's endless stream, or in the split.
        mask: False for images that only fill up the last batch and do not count.
    """

    images: UInt8[np.ndarray, "b size size 3"]
    labels: Int[np.ndarray, " b"]
    positions: Int[np.ndarray, " b"]
    mask: Bool[np.ndarray, " b"]

    def by_device(self) -> "HostBatch":
        """Returns it shared out among the local devices, arrays [devices, b / devices, ...]."""
        devices = jax.local_device_count()
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), self)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Batch i of a stream of images, as a sequence that Grain reads ahead.

    Which images it holds, and how they are cropped, is a function of (seed, i) alone.
    """

    source: ImageSource
    crop: Crop
    batch_size: int  # over all hosts
    first: int  # place of this host's share in a batch
    share: int  # images of a batch that are this host's
    count: int  # of batches
    seed: int | None  # of the order and the crops; None: in order, each once

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> HostBatch:
        positions = np.arange(self.share) + (i * self.batch_size + self.first)
        images = np.empty((self.share, self.crop.size, self.crop.size, 3), np.uint8)
        labels = np.empty(self.share, np.int32)
        draws = self._draws(i)
        for k, position in enumerate(positions.tolist()):
            labels[k] = self._read(position, draws[k], images[k])
        mask = np.ones(self.share, bool) if self.seed is not None else positions < len(self.source)
        return HostBatch(images, labels, positions, mask)

    def _draws(self, i: int) -> list[list[float]]:
        """Returns the random numbers for the crops of this host's share of batch i."""
        if self.seed is None:
            return [[]] * self.share
        generator = rng.generator(self.seed, rng.Stream.CROP, i)
        draws = generator.random((self.batch_size, self.crop.draws))  # of all hosts
        return draws[self.first : self.first + self.share].tolist()

    def _read(self, position: int, draws: list[float], out: np.ndarray) -> int:
        """Writes the image at a position; returns its label."""
        size = len(self.source)
        if self.seed is None:
            place = min(position, size - 1)
        else:
            place = shuffled_place(self.seed, position, size)
        record = self.source[place]
        label = int(record["label"])
        if not 0 <= label < len(self.source.class_names):
            raise UserError(
                f"{self.source.describe(place)} has the label {label}, but there are "
                f"{len(self.source.class_names)} classes, numbered from 0"
            )
        try:
            self.crop(decode(record["image"]), draws, out)
            return label
        except UserError as error:
            raise UserError(f"cannot read {self.source.describe(place)}: {error}") from error


@dataclasses.dataclass(frozen=True)
class StreamedDataset:
    """A classification data set that is read as it is needed (see `dataset.ImageDataset`).

    Attributes:
        name: what the data set is called.
        train, test: the splits.
        train_crop, eval_crop: make images of one size of them.
        mean, std: of each channel, on a scale of 0 to 1.
        horizontal_flip: whether a flipped image keeps its meaning.
        validation: images held out of `train`, or None.
        workers: processes that read images; 0 reads in threads.
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
    on_device: ClassVar[bool] = False

    def __post_init__(self):
        if self.train_crop.size != self.eval_crop.size:
            raise UserError(
                f"{self.name}: training crops of {self.train_crop.size} pixels, but those for "
                f"evaluation of {self.eval_crop.size}"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class."""
        return tuple(self.train.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image as the network sees it."""
        return (self.train_crop.size, self.train_crop.size, 3)

    @property
    def splits(self) -> dict[str, ImageSource]:
        """The splits there are, by name."""
        return present(train=self.train, validation=self.validation, test=self.test)

    def hold_out(self, fraction: float) -> "StreamedDataset":
        """Moves a fraction of `train` to `validation` (see `dataset.held_out`)."""
        kept, held = held_out(self.name, self.splits, fraction)
        return dataclasses.replace(
            self, train=Subset(self.train, kept), validation=Subset(self.train, held)
        )

    def train_feed(
        self, batch_size: int, seed: int, total_steps: int, num_feeds: int = 1
    ) -> "StreamedTrainFeed":
        """Returns the inputs of a run's steps: the images of a batch."""

        def batches_from(step):
            return train_batches(
                self.train, self.train_crop, batch_size, seed, step, total_steps,
                self.workers, num_feeds,
            )  # fmt: skip

        return StreamedTrainFeed(batches_from)

    def train_batch(
        self, preprocessing: Preprocessing, batch_size: int, shared: None, own: HostBatch,
        seed: rng.Seed, step: Int[Array, ""],
    ) -> Batch:  # fmt: skip
        """Returns a device's share of a step's batch."""
        return preprocessing.train(seed, own.images, own.labels, own.positions)

    def eval_feed(self, split: str, batch_size: int) -> "StreamedEvalFeed":
        """Returns the inputs of an evaluation: the images of a batch."""
        return StreamedEvalFeed(self.splits[split], self.eval_crop, batch_size, self.workers)

    def eval_batch(self, preprocessing: Preprocessing, shared: None, own: HostBatch) -> Batch:
        """Returns a device's share of a batch."""
        return eval_batch(preprocessing, shared, own)

    def host_images(self, split: str, batch_size: int) -> Iterator[HostImages]:
        """Yields the images of a split, in order, cropped, and their labels."""
        return host_images(self.splits[split], self.eval_crop, batch_size, self.workers)


class StreamedTrainFeed:
    """Batches on the devices, one ahead of the step that is computed.

    Args:
        batches_from: `batches_from(step)` yields the host's batches from a step on.
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
            self._batches = self._batches_from(step)
            self.prefetch(step)
        if self._ahead is None:
            raise IndexError(f"the run has no step {step}")
        return None, self._ahead[1]

    def prefetch(self, step: int) -> None:
        """Copies the batch of the next step to the devices, if there is one."""
        batch = next(self._batches, None)
        self._ahead = None if batch is None else (step, share_out(batch.by_device()))

    def close(self) -> None:
        """Stops reading."""
        if self._batches is not None:
            self._batches.close()


class StreamedEvalFeed:
    """Batches that hold every image of a source once.

    Args:
        source: the images.
        crop: makes them all of one size.
        batch_size: over all devices; rounded to a multiple of their number.
        workers: see `StreamedDataset`.
    """

    def __init__(self, source: ImageSource, crop: Crop, batch_size: int, workers: int = 0):
        self._source, self._crop, self._workers = source, crop, workers
        self._batch_size = divisible(min(batch_size, len(source)))

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def __iter__(self) -> Iterator[Inputs]:
        for batch in eval_batches(self._source, self._crop, self._batch_size, self._workers):
            yield None, batch.by_device()


def eval_batch(preprocessing: Preprocessing, shared: None, own: HostBatch) -> Batch:
    """Returns a device's share of a batch to evaluate."""
    return Batch(preprocessing.normalize(own.images), own.labels, own.mask)


def host_images(
    source: ImageSource, crop: Crop, batch_size: int, workers: int = 0
) -> Iterator[HostImages]:
    """Yields the images of a source, in order, cropped, and their labels."""
    for batch in eval_batches(source, crop, batch_size, workers):
        yield batch.images[batch.mask], batch.labels[batch.mask]


def shuffled_place(seed: int, position: int, size: int) -> int:
    """Returns which image of a split stands at a position of the run's endless stream.

    Every `size` positions hold each image once, in an order of their own.
    """
    epoch, place = divmod(position, size)
    return int(_order(seed, epoch, size)[place])


@functools.lru_cache(maxsize=64)  # batches read side by side may be of two epochs, each seed
def _order(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    generator = rng.generator(seed, rng.Stream.ORDER, epoch)
    return generator.permutation(size).astype(np.int32)


def train_batches(
    source: ImageSource,
    crop: Crop,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    workers: int = 0,
    streams: int = 1,
) -> Iterator[HostBatch]:
    """Yields this host's share of the batches of steps first_step to last_step - 1.

    Which image stands at a position is a function of (seed, position), and how it is cropped of
    (seed, step, place in the batch), whatever the number of hosts, workers and interruptions.

    Args:
        source: the images.
        crop: makes them all of one size.
        batch_size: over all hosts.
        seed: of order and crops.
        first_step, last_step: which batches.
        workers: processes that read; 0 reads in threads of this one.
        streams: how many streams of batches are read side by side, and share cores and memory.
    """
    batches = _Batches(source, crop, batch_size, *_own_places(batch_size), last_step, seed)
    yield from _read_ahead(batches, first_step, workers, streams)


def eval_batches(
    source: ImageSource, crop: Crop, batch_size: int, workers: int = 0
) -> Iterator[HostBatch]:
    """Yields this host's share of batches that hold every image once, in order.

    The last ones are filled up with what the mask does not count, so that all hosts have as
    many. For the arguments, see `train_batches`.
    """
    count = -(-len(source) // batch_size)
    batches = _Batches(source, crop, batch_size, *_own_places(batch_size), count, None)
    yield from _read_ahead(batches, 0, workers)


def _own_places(batch_size: int) -> tuple[int, int]:
    """Returns the first of this host's places in a batch, and how many it has."""
    share = batch_size // jax.process_count()
    return share * jax.process_index(), share


def _read_ahead(
    batches: _Batches, start: int, workers: int, streams: int = 1
) -> Iterator[HostBatch]:
    import grain

    cv2.setNumThreads(0)  # images, not parts of one, are what is read side by side
    dataset = grain.MapDataset.source(batches)[start:]
    # Each thread reads a batch; several are held at a time, as far as memory allows.
    size = batches.share * batches.crop.size**2 * 3
    held = max(2, min(os.cpu_count() or 1, _BYTES_AHEAD // size) // streams)
    options = grain.ReadOptions(num_threads=1 if workers else held, prefetch_buffer_size=held)
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its own, also where no command was given
        count = max(1, workers // streams)
        options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
    yield from dataset


def _end_with_parent(worker: int, workers: int) -> None:
    """Makes a worker process end with the one it reads for, and not before, on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
