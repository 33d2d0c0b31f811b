"""Images that do not fit in memory, read as they are needed."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import jax
import numpy as np
from absl import flags
from jaxtyping import Bool, Int, UInt8

from se_flax import rng
from se_flax.data.images import Crop, decode
from se_flax.data.sources import held_out
from se_flax.errors import UserError

_BYTES_AHEAD = 2**31


class ImageSource(Protocol):
    """Labelled images, one at a time, in any order.

    Attributes:
        class_names: one a class.
    """

    class_names: tuple[str, ...]

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


@dataclasses.dataclass(frozen=True)
class HostBatch:
    """This host's share of a batch.

    Attributes:
        images: uint8 [b, size, size, 3].
        labels: int32 [b].
        positions: of the images in the run's endless stream (see `TrainOrder`), or in the split.
        mask: False for images that only fill up the last batch and do not count.
    """

    images: UInt8[np.ndarray, "b size size 3"]
    labels: Int[np.ndarray, " b"]
    positions: Int[np.ndarray, " b"]
    mask: Bool[np.ndarray, " b"]

    def on_devices(self) -> tuple[Any, Any, Any, Any]:
        """Returns its arrays shared out among the local devices, [devices, b / devices, ...]."""
        devices = jax.local_device_count()
        arrays = (self.images, self.labels, self.positions, self.mask)
        return tuple(x.reshape(devices, -1, *x.shape[1:]) for x in arrays)


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
    """A classification data set that is read as it is needed.

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

    def hold_out(self, fraction: float) -> "StreamedDataset":
        """Moves a fraction of `train` to `validation` (see `held_out`)."""
        if self.validation is not None:
            raise UserError(
                f"{self.name} has a validation split of its own; leave validation_fraction at 0"
            )
        kept, held = held_out(len(self.train), fraction)
        return dataclasses.replace(
            self, train=Subset(self.train, kept), validation=Subset(self.train, held)
        )


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
