"""Every random stream of a run, in one table.

A run draws from no other stream, and no two streams share a key. `key` and `generator` derive each
key from (seed, stream). The code that uses a stream derives a key for each draw from the stream's
key and the place of the draw in the run.
"""

import enum

import jax
import numpy as np
from jaxtyping import Array, Key, UInt

Seed = UInt[Array, ""] | np.unsignedinteger | int


class Stream(enum.IntEnum):
    """What a run draws at random.

    On the devices, a stream's `key` is folded with the place of the draw:

    | stream    | decides                                 | folded with          |
    |-----------|-----------------------------------------|----------------------|
    | `INIT`    | initial parameters                      | (by Flax) the module |
    | `ORDER`   | order of images held on the devices     | epoch                |
    | `AUGMENT` | augmentation of an image                | position of the image|
    | `MIX`     | mixup and cutmix of a pair of images    | position of the pair |
    |           | if all pairs of a batch are mixed alike | step                 |
    | `DROPOUT` | dropout and stochastic depth            | step, device         |
    | `SAMPLE`  | a detector's sample of boxes to train on| step, device         |

    On the host, a stream's `generator` is made for each index:

    | stream     | decides                                   | index        |
    |------------|-------------------------------------------|--------------|
    | `ORDER`    | order of images that are streamed         | epoch        |
    | `CROP`     | random crops of images that are streamed  | step         |
    | `HOLD_OUT` | which training images are held out        | 0; seed 0    |
    | `FLIP`     | flips of images with boxes                | step         |
    | `SHAPES`   | generated images                          | image; seed  |
    |            |                                           | 0: training, |
    |            |                                           | 1: test      |

    Positions count the images of a run from 0, over all epochs. The held-out images and the
    generated ones are the same for every seed.
    """

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    MIX = 3
    DROPOUT = 4
    CROP = 5
    HOLD_OUT = 6
    FLIP = 7
    SAMPLE = 8
    SHAPES = 9


def key(seed: Seed, stream: Stream) -> Key[Array, ""]:
    """Returns the key of a stream on the devices. Fold it; never draw from it or split it."""
    return jax.random.fold_in(jax.random.key(seed), int(stream))


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Returns the generator of a stream on the host at an index."""
    # Always three numbers, because NumPy treats [1] and [1, 0] alike.
    return np.random.default_rng([int(stream), seed, index])
