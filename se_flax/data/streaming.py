"""Data sets that do not fit in memory: their images are read when they are needed."""

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
from se_flax.data.dataset import HostImages, Inputs, held_out, num_batches, present
from se_flax.data.images import Crop, decode
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.errors import UserError
from se_flax.parallel import divisible, share_out

_BYTES_AHEAD = 2**31  # limit on the memory of prefetched images


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images with random access."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Returns `image`, encoded or uint8 [h, w, 1 or 3], and `label`, counted from 0."""

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

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[int(self.indices[i])]

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return self.source.describe(int(self.indices[i]))


@flax.struct.dataclass
class HostBatch:
    """This host's share of a batch; a pytree.

    Attributes:
        images: uint8 [b, size, size, channels].
        labels: int32 [b].
        positions: positions of the images in the run's endless stream or in the split, [b].
        mask: bool [b]; False for images that only pad the last batch.
    """

    images: UInt8[np.ndarray, "b size size c"]
    labels: Int[np.ndarray, " b"]
    positions: Int[np.ndarray, " b"]
    mask: Bool[np.ndarray, " b"]

    def by_device(self) -> "HostBatch":
        """Splits the batch among the local devices: arrays [devices, b / devices, ...]."""
        devices = jax.local_device_count()
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), self)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The batches of a stream as a sequence, which Grain prefetches.

    The images in batch i and their crops are a function of (seed, i) alone.
    """

    source: ImageSource
    crop: Crop
    batch_size: int  # over all hosts
    first: int  # start of this host's share in a batch
    share: int  # number of images in this host's share
    count: int  # number of batches
    seed: int | None  # seed of the order and crops; None: each image once, in order

    @property
    def num_bytes(self) -> int:
        """Size of a batch's images."""
        return self.share * self.crop.size**2 * 3

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> HostBatch:
        positions = np.arange(self.share) + (i * self.batch_size + self.first)
        shape = (self.crop.size, self.crop.size, self.crop.channels)
        images = np.zeros((self.share, *shape), np.uint8)
        labels = np.zeros(self.share, np.int32)
        mask = np.ones(self.share, bool) if self.seed is not None else positions < len(self.source)
        draws = self._draws(i)
        for k in np.flatnonzero(mask).tolist():
            labels[k] = self._read(int(positions[k]), draws[k], images[k])
        return HostBatch(images, labels, positions, mask)

    def _draws(self, i: int) -> list[list[float]]:
        """Returns the random numbers for the crops of this host's share of batch i."""
        if self.seed is None:
            return [[]] * self.share
        generator = rng.generator(self.seed, rng.Stream.CROP, i)
        draws = generator.random((self.batch_size, self.crop.draws))  # for all hosts
        return draws[self.first : self.first + self.share].tolist()

    def _read(self, position: int, draws: list[float], out: np.ndarray) -> int:
        """Writes the image at a position; returns its label."""
        place = position
        if self.seed is not None:
            place = shuffled_place(self.seed, position, len(self.source))
        try:
            record = self.source[place]
        except OSError as error:
            raise OSError(
                f"cannot read {self.source.describe(place)}: {error.strerror or error}; once that "
                "is repaired, the same command continues"
            ) from error
        label = int(record["label"])
        if not 0 <= label < len(self.source.class_names):
            raise UserError(
                f"{self.source.describe(place)} has the label {label}, but there are "
                f"{len(self.source.class_names)} classes, numbered from 0; correct the label"
            )
        try:
            self.crop(decode(record["image"]), draws, out)
            return label
        except UserError as error:
            raise UserError(f"cannot read {self.source.describe(place)}: {error}") from error


@dataclasses.dataclass(frozen=True)
class StreamedDataset:
    """A classification data set that is read when needed (see `dataset.ImageDataset`).

    Attributes:
        name: name of the data set.
        train, test: training and test images.
        train_crop, eval_crop: crops for training and evaluation, of the same size.
        mean, std: mean and standard deviation of each channel, on a scale of 0 to 1.
        horizontal_flip: whether a horizontal flip preserves an image's class.
        validation: images held out of `train`, or None.
        workers: number of processes that read images; 0 reads in threads.
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
                f"{self.name}: training crops have {self.train_crop.size} pixels, but evaluation "
                f"crops {self.eval_crop.size}; give both the same size"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return tuple(self.train.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return (self.eval_crop.size, self.eval_crop.size, self.eval_crop.channels)

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
        """Returns the inputs of an evaluation, each a batch of images."""
        return StreamedEvalFeed(self.splits[split], self.eval_crop, batch_size, self.workers)

    def eval_batch(self, preprocessing: Preprocessing, shared: None, own: HostBatch) -> Batch:
        """Returns a device's share of an evaluation batch."""
        return eval_batch(preprocessing, shared, own)

    def host_images(self, split: str, batch_size: int) -> Iterator[HostImages]:
        """Yields batches of cropped images and labels of a split, in order."""
        return host_images(self.splits[split], self.eval_crop, batch_size, self.workers)


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
    """Evaluation batches, which contain every image of a source exactly once.

    Args:
        source: the images.
        crop: crop that gives all images one size.
        batch_size: most images in a batch, over all devices; rounded up to a multiple of their
            number. All batches have the same size, the smallest that needs no more batches.
        workers: see `StreamedDataset`.
    """

    def __init__(self, source: ImageSource, crop: Crop, batch_size: int, workers: int = 0):
        self._source, self._crop, self._workers = source, crop, workers
        self._count = num_batches(len(source), divisible(batch_size))
        self._batch_size = divisible(-(-len(source) // self._count))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Inputs]:
        for batch in eval_batches(self._source, self._crop, self._batch_size, self._workers):
            yield None, batch.by_device()


def eval_batch(preprocessing: Preprocessing, shared: None, own: HostBatch) -> Batch:
    """Returns a device's share of an evaluation batch, normalised."""
    return Batch(preprocessing.normalize(own.images), own.labels, own.mask)


def host_images(
    source: ImageSource, crop: Crop, batch_size: int, workers: int = 0
) -> Iterator[HostImages]:
    """Yields batches of cropped images and labels of a source, in order."""
    for batch in eval_batches(source, crop, batch_size, workers):
        yield batch.images[batch.mask], batch.labels[batch.mask]


def shuffled_place(seed: int, position: int, size: int) -> int:
    """Returns the index of the image at a position of the run's endless stream.

    Each block of `size` positions contains each image once, in its own random order.
    """
    epoch, place = divmod(position, size)
    return int(_order(seed, epoch, size)[place])


@functools.lru_cache(maxsize=64)  # prefetched batches may belong to two epochs for each seed
def _order(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    generator = rng.generator(seed, rng.Stream.ORDER, epoch)
    return generator.permutation(size).astype(np.int32)


def train_batches(
    source: ImageSource,
    crop: Crop,
    batch_size: int,
    seed: int,
    first_step: int,
    total_steps: int,
    workers: int = 0,
    streams: int = 1,
) -> Iterator[HostBatch]:
    """Yields this host's share of the batches from step `first_step` to the end of the run.

    The image at a position is a function of (seed, position), and its crop a function of (seed,
    step, index in the batch). Neither depends on the number of hosts, workers or interruptions.

    Args:
        source: the images.
        crop: crop that gives all images one size.
        batch_size: total batch size, over all hosts.
        seed: seed of the order and crops.
        first_step: the first step, counted from 0.
        total_steps: length of the run, in steps; the last step is total_steps - 1.
        workers: number of processes that read images; 0 reads in threads of this process.
        streams: number of streams that are read in parallel and share cores and memory.
    """
    batches = _Batches(source, crop, batch_size, *own_places(batch_size), total_steps, seed)
    yield from read_ahead(batches, first_step, workers, streams)


def eval_batches(
    source: ImageSource, crop: Crop, batch_size: int, workers: int = 0
) -> Iterator[HostBatch]:
    """Yields this host's share of batches that contain every image once, in order.

    The last batch is padded with masked images, so that all hosts have the same number. For the
    arguments, see `train_batches`.
    """
    count = num_batches(len(source), batch_size)
    batches = _Batches(source, crop, batch_size, *own_places(batch_size), count, None)
    yield from read_ahead(batches, 0, workers)


def own_places(batch_size: int) -> tuple[int, int]:
    """Returns the start and size of this host's share of a batch."""
    share = batch_size // jax.process_count()
    return share * jax.process_index(), share


def read_ahead(batches: Any, start: int = 0, workers: int = 0, streams: int = 1) -> Iterator[Any]:
    """Yields batches in order, while threads or other processes read the next ones.

    Args:
        batches: a sequence that reads a batch when it is asked for one. Its attribute `num_bytes`
            is the size of the largest batch.
        start: index of the first batch.
        workers, streams: see `train_batches`.
    """
    import grain

    cv2.setNumThreads(0)  # threads work on different images, not on parts of one image
    dataset = grain.MapDataset.source(batches)[start:]
    # Each thread reads one batch. Several batches are held at a time, as memory allows.
    held = max(2, min(os.cpu_count() or 1, _BYTES_AHEAD // batches.num_bytes) // streams)
    options = grain.ReadOptions(num_threads=1 if workers else held, prefetch_buffer_size=held)
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads flags, even outside of a command
        count = max(1, workers // streams)
        options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
    yield from dataset


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends a worker process when its parent ends; the worker itself ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
