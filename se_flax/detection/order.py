"""The order of training images, in batches of images with the same padded size."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from se_flax import rng


@dataclasses.dataclass(frozen=True, eq=False)
class GroupedOrder:
    """An endless sequence of batches, each of images of one group.

    Epoch follows epoch, each with all images in its own random order. Images are collected by
    group, and when a group has enough for a batch, that is the next batch. So every image is used
    once in an epoch, none is dropped or repeated to fill a batch, and images that are left over at
    the end of an epoch are in the first batch of their group that the next epoch fills.

    Each batch is computed from (seed, step) alone. A group has the same number of images in each
    epoch, so it is known how many of them were used before any epoch.

    Attributes:
        groups: group of each image, from 0.
        batch_size: number of images in a batch.
        seed: of the order.
    """

    groups: Int[np.ndarray, " n"]
    batch_size: int
    seed: int

    @functools.cached_property
    def counts(self) -> Int[np.ndarray, " groups"]:
        """Number of images in each group."""
        return np.bincount(self.groups)

    def batch(self, step: int) -> tuple[int, Int[np.ndarray, " batch_size"]]:
        """Returns the group and the images of the batch of a step, counted from 0."""
        epoch = step * self.batch_size // len(self.groups)  # this one or a later one
        while self._batches_before(epoch + 1) <= step:
            epoch += 1
        group, number = _epoch(self, epoch).batches[step - self._batches_before(epoch)].tolist()
        positions = number * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(positions, self.counts[group])
        images = [
            _epoch(self, int(of)).members[group][place]
            for of, place in zip(epochs, places, strict=True)
        ]
        return group, np.array(images, np.int32)

    def _batches_before(self, epoch: int) -> int:
        """Returns the number of batches that are full before an epoch begins."""
        return int(np.sum(epoch * self.counts // self.batch_size))


class _Epoch(NamedTuple):
    """Attributes: images of each group in order; group, and number in the group, of each batch."""

    members: tuple[Int[np.ndarray, " _"], ...]
    batches: Int[np.ndarray, "_ 2"]


@functools.lru_cache(maxsize=32)  # a batch of a small group has images of several epochs
def _epoch(order: GroupedOrder, epoch: int) -> _Epoch:
    generator = rng.generator(order.seed, rng.Stream.ORDER, epoch)
    images = generator.permutation(len(order.groups)).astype(np.int32)
    groups = order.groups[images]
    members, filled = [], []
    for group, count in enumerate(order.counts):
        places = np.flatnonzero(groups == group)
        members.append(images[places])
        used = epoch * count + np.arange(1, count + 1)
        is_last = used % order.batch_size == 0
        numbers = used[is_last] // order.batch_size - 1
        filled.append(np.stack([places[is_last], np.full_like(numbers, group), numbers], axis=1))
    filled = np.concatenate(filled)
    return _Epoch(tuple(members), filled[np.argsort(filled[:, 0])][:, 1:])
