"""Batches of images that are read and cropped on the host, ahead of the steps that need them."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import flax.struct
import jax
import numpy as np
from absl import flags
from jaxtyping import Bool, Int, UInt8

from se_flax import rng
from se_flax.data.damage import Damage
from se_flax.data.dataset import HostImages, HostLabels, is_multi_label, num_batches
from se_flax.data.image_source import ImageSource
from se_flax.data.images import Crop, decode
from se_flax.data.repeats import image_positions
from se_flax.data.stages import stage_at
from se_flax.errors import UserError
from se_flax.parallel import split_up

_BYTES_AHEAD = 2**31  # limit on the memory of prefetched images
_MOST_DAMAGED = 100  # successive images
_REPLACED = "in training, the image after it takes its place"
_LEFT_OUT = "it is left out"


@flax.struct.dataclass
class HostBatch:
    """This host's share of a batch; a pytree.

    Attributes:
        images: uint8 [b, size, size, channels].
        labels: int32 [b], or uint8 [b, classes] (see `ImageSource`).
        positions: positions of the images in the run's endless stream or in the split, [b].
        mask: bool [b]; False for images that only pad the last batch, or are damaged.
    """

    images: UInt8[np.ndarray, "b size size c"]
    labels: HostLabels
    positions: Int[np.ndarray, " b"]
    mask: Bool[np.ndarray, " b"]

    def by_device(self) -> "HostBatch":
        """Splits the batch among the local devices: arrays [devices, b / devices, ...]."""
        return split_up(self)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The batches of a stream as a sequence, which Grain prefetches.

    Each comes with the damaged images that were met, and their faults. The images in batch i and
    their crops are a function of (seed, i) alone: in training, a damaged image is replaced by the
    first one after it in the source that is not.
    """

    source: ImageSource
    crops: tuple[Crop, ...]  # of equal parts of the stream
    batch_size: int  # over all hosts
    first: int  # start of this host's share in a batch
    share: int  # number of images in this host's share
    count: int  # number of batches
    seed: int | None  # seed of the order and crops; None: each image once, in order
    repeats: int = 1  # copies of an image in a batch

    def __len__(self) -> int:
        return self.count

    @property
    def num_bytes(self) -> int:
        """Size of a batch's images."""
        return self.share * max(crop.size for crop in self.crops) ** 2 * 3

    def __getitem__(self, i: int) -> tuple[HostBatch, dict[str, str]]:
        positions = np.arange(self.share) + (i * self.batch_size + self.first)
        crop = self.crops[stage_at(i, self.count, len(self.crops))]
        shape = (crop.size, crop.size, crop.channels)
        images = np.zeros((self.share, *shape), np.uint8)
        labels = np.zeros(self.share, np.int32)
        if is_multi_label(self.source):
            labels = np.zeros((self.share, len(self.source.class_names)), np.uint8)
        mask = np.ones(self.share, bool) if self.seed is not None else positions < len(self.source)
        draws, faults = self._draws(i, crop), {}
        for k in np.flatnonzero(mask).tolist():
            write = functools.partial(crop, draws=draws[k], out=images[k])
            label = self._read(int(positions[k]), write, faults)
            if label is None:
                mask[k] = False
            else:
                labels[k] = label
        return HostBatch(images, labels, positions, mask), faults

    def _draws(self, i: int, crop: Crop) -> list[list[float]]:
        """Returns the random numbers for the crops of this host's share of batch i."""
        if self.seed is None:
            return [[]] * self.share
        generator = rng.generator(self.seed, rng.Stream.CROP, i)
        draws = generator.random((self.batch_size, crop.draws))  # for all hosts
        return draws[self.first : self.first + self.share].tolist()

    def _read(
        self, position: int, write: Callable[[np.ndarray], Any], faults: dict[str, str]
    ) -> int | np.ndarray | None:
        """Writes the image at a position; returns its label, None if it is to be left out."""
        if self.seed is None:
            return self._read_from(position, write, faults)
        position = image_positions(position, self.batch_size, self.repeats, len(self.source))
        first = shuffled_place(self.seed, position, len(self.source))
        tries = min(_MOST_DAMAGED, len(self.source))
        for after in range(tries):
            place = (first + after) % len(self.source)
            label = self._read_from(place, write, faults)
            if label is not None:
                return label
        name = self.source.describe(first)
        raise UserError(
            f"{name} is damaged ({faults[name]}), and so are all of the {tries:,} images from "
            "there on; repair them"
        )

    def _read_from(
        self, place: int, write: Callable[[np.ndarray], Any], faults: dict[str, str]
    ) -> int | np.ndarray | None:
        """Writes an image of the source; returns its label, None if the image is damaged."""
        try:
            record = self.source[place]
        except OSError as error:
            raise OSError(
                f"cannot read {self.source.describe(place)}: {error.strerror or error}; once that "
                "is repaired, the same command continues"
            ) from error
        label = self._checked(record["label"], place)
        try:
            image = decode(record["image"], record.get("upright", False))
        except UserError as error:
            faults[self.source.describe(place)] = str(error)
            return None
        write(image)
        return label

    def _checked(self, label: Any, place: int) -> int | np.ndarray:
        """Returns a label; raises `UserError` if it does not fit the classes."""
        count = len(self.source.class_names)
        if is_multi_label(self.source):
            if np.shape(label) == (count,):
                return np.asarray(label, np.uint8)
            raise UserError(
                f"{self.source.describe(place)} has a label of the shape {np.shape(label)}, but "
                f"there are {count} classes; give 0 or 1 for each"
            )
        if not 0 <= int(label) < count:
            raise UserError(
                f"{self.source.describe(place)} has the label {label}, but there are "
                f"{count} classes, numbered from 0; correct the label"
            )
        return int(label)


def host_images(
    source: ImageSource, crop: Crop, batch_size: int, workers: int = 0,
    damage: Damage | None = None,
) -> Iterator[HostImages]:  # fmt: skip
    """Yields batches of cropped images and labels of a source, in order, without damaged ones."""
    for batch in eval_batches(source, crop, batch_size, workers, damage):
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
    damage: Damage | None = None,
    repeats: int = 1,
    earlier_crops: Sequence[Crop] = (),
) -> Iterator[HostBatch]:
    """Yields this host's share of the batches from step `first_step` to the end of the run.

    The image at a position is a function of (seed, position), and its crop a function of (seed,
    step, index in the batch). Neither depends on the number of hosts, workers or interruptions. In
    the place of a damaged image is the first one after it in the source that is not.

    Args:
        source: the images.
        crop: crop that gives all images one size.
        batch_size: total batch size, over all hosts.
        seed: seed of the order and crops.
        first_step: the first step, counted from 0.
        total_steps: length of the run, in steps; the last step is total_steps - 1.
        workers: number of processes that read images; 0 reads in threads of this process.
        streams: number of streams that are read in parallel and share cores and memory.
        damage: counts the damaged images.
        repeats: copies of an image in a batch; see `repeats.image_positions`.
        earlier_crops: crops of equal parts of the run, before the last one, which has `crop`.
    """
    damage = Damage() if damage is None else damage
    places, crops = own_places(batch_size), (*earlier_crops, crop)
    batches = _Batches(source, crops, batch_size, *places, total_steps, seed, repeats)
    for batch, faults in read_ahead(batches, first_step, workers, streams):
        damage.add(faults, _REPLACED)
        yield batch


def eval_batches(
    source: ImageSource, crop: Crop, batch_size: int, workers: int = 0,
    damage: Damage | None = None,
) -> Iterator[HostBatch]:  # fmt: skip
    """Yields this host's share of batches that contain every image once, in order.

    The last batch is padded with masked images, so that all hosts have the same number. Damaged
    images are masked, too. For the arguments, see `train_batches`.

    Raises:
        UserError: if all images are damaged.
    """
    damage = Damage() if damage is None else damage
    count = num_batches(len(source), batch_size)
    batches = _Batches(source, (crop,), batch_size, *own_places(batch_size), count, None)
    lost = 0
    for batch, faults in read_ahead(batches, 0, workers):
        damage.add(faults, _LEFT_OUT)
        lost += len(faults)
        if lost == len(source):
            raise UserError(
                f"all {lost:,} images that were to be evaluated are damaged; repair them"
            )
        yield batch
    if lost:
        damage.say_left_out(lost, len(source))


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
