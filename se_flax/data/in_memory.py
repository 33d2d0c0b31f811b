"""Batches of a data set that lives on the device, made inside the jitted step.

What a step sees is a function of (seed, step) alone: nothing needs to be saved to resume, and
neither the number of devices nor of steps in a dispatch changes it.
"""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from se_flax import rng
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.data.shuffle import shuffled
from se_flax.data.sources import Split


@flax.struct.dataclass
class DeviceSplit:
    """A split as arrays on a device: images uint8 [n, h, w, c], labels int32 [n]."""

    images: UInt8[Array, "n h w c"]
    labels: Int[Array, " n"]

    @classmethod
    def of(cls, split: Split) -> "DeviceSplit":
        """A split, still on the host; `jax.device_put` places it."""
        return cls(split.images, split.labels)


def train_batch(
    split: DeviceSplit,
    preprocessing: Preprocessing,
    seed: Int[Array, ""],
    positions: Int[Array, " b"],
) -> Batch:
    """Returns the training images at the given positions of the run's endless stream.

    Position p is the p-th image the run sees, counted over all steps and devices; every n
    positions hold each of the n images once. Image and augmentation depend on (seed, p) only.
    """
    chosen = shuffled(rng.key(seed, rng.Stream.ORDER), positions, len(split.labels))
    return preprocessing.train(seed, split.images[chosen], split.labels[chosen], positions)


def eval_batch(
    split: DeviceSplit, preprocessing: Preprocessing, positions: Int[Array, " b"]
) -> Batch:
    """Returns the images at the given positions of a split; those past its end are masked."""
    n = len(split.labels)
    chosen = jnp.minimum(positions, n - 1)
    return Batch(preprocessing.normalize(split.images[chosen]), split.labels[chosen], positions < n)
