"""Repeated augmentation: several copies of an image in a batch, each augmented in its own way."""

from typing import TypeVar

import numpy as np
from jaxtyping import Array, Int

from se_flax.errors import UserError

Positions = TypeVar("Positions", int, Int[Array, " b"], Int[np.ndarray, " b"])


def num_shards(batch_size: int, repeats: int) -> int:
    """Returns the number of shards of a batch; see `image_positions`.

    It is the smallest number, at least `repeats`, for which all shards have the same even number of
    images. They must be even because images are mixed in pairs.

    Raises:
        UserError: if there is none.
    """
    for shards in range(repeats, batch_size // 2 + 1):
        if batch_size % (2 * shards) == 0:
            return shards
    raise UserError(
        f"config.augment.repeats={repeats} does not fit config.batch_size={batch_size}; use an "
        f"even number of at least {2 * repeats}"
    )


def image_positions(positions: Positions, batch_size: int, repeats: int, size: int) -> Positions:
    """Returns which images of an endless sequence are at positions of a run's stream.

    Berman et al., MultiGrain, arXiv:1902.05509, section 3.2, and Hoffer et al., arXiv:1901.09335,
    in the form of timm's `RepeatAugSampler`: each epoch repeats each image of its own random order
    `repeats` times, and ends after as many images as before, so it has only 1/repeats of them.

    timm gives these copies to the processes of a run in turn, so that no process has two of the
    same image in a batch. Here they are given to `num_shards` equal parts of the batch, whatever
    the number of devices. Within an epoch, no shard has an image twice, and no two images that are
    mixed with each other are copies of one image.

    Args:
        positions: positions in the stream, of all images and copies from the start of the run.
        batch_size: of the run, over all devices.
        repeats: copies of each image; 1 returns the positions as they are.
        size: number of training images.

    Returns:
        Positions in a sequence in which each block of `size` images has its own order.
    """
    if repeats == 1:
        return positions
    shards = num_shards(batch_size, repeats)
    slot = positions % batch_size
    shard, turn = slot // (batch_size // shards), slot % (batch_size // shards)
    copy = positions - slot + turn * shards + shard
    place = copy % size
    return copy - place + place // repeats
