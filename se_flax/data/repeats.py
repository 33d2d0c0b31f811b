"""Repeated augmentation: several copies of an image in a batch, each augmented in its own way."""

from typing import TypeVar

import numpy as np
from jaxtyping import Array, Int

from se_flax.errors import UserError

Positions = TypeVar("Positions", int, Int[Array, " b"], Int[np.ndarray, " b"])


def num_hands(batch_size: int, repeats: int) -> int:
    """Returns to how many hands a batch is dealt; see `image_positions`.

    It is the smallest number of at least `repeats` that gives all hands equally many images, and
    an even number, so that images can be mixed in pairs.

    Raises:
        UserError: if there is none.
    """
    for hands in range(repeats, batch_size // 2 + 1):
        if batch_size % (2 * hands) == 0:
            return hands
    raise UserError(
        f"config.augment.repeats={repeats} needs a larger or an even config.batch_size than "
        f"{batch_size}; use an even number of at least {2 * repeats}"
    )


def image_positions(positions: Positions, batch_size: int, repeats: int, size: int) -> Positions:
    """Returns which images of an endless sequence are at positions of a run's stream.

    Berman et al., MultiGrain, arXiv:1902.05509, section 3.2, and Hoffer et al., arXiv:1901.09335,
    in the form of timm's `RepeatAugSampler`: each epoch repeats each image of its own random order
    `repeats` times, and ends after as many images as before, so it has only 1/repeats of them.

    timm deals these copies to the processes of a run in turn, so that no process has two of the
    same image in a batch. Here a batch is dealt to `num_hands`, whatever the number of devices; the
    first part of the batch is the first hand, and so on. A device that computes at most one hand
    has no image twice, and neither has a pair of images that are mixed.

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
    hands = num_hands(batch_size, repeats)
    slot = positions % batch_size
    hand, turn = slot // (batch_size // hands), slot % (batch_size // hands)
    dealt = positions - slot + turn * hands + hand
    place = dealt % size
    return dealt - place + place // repeats
