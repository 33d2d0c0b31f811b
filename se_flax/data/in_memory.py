"""Batches of a data set that lives on the device, made inside the jitted step.

What a step sees is a function of (seed, step) alone: nothing needs to be saved to resume, and
neither the number of devices nor of steps in a dispatch changes it.
"""

import dm_pix as pix
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from se_flax.data.shuffle import shuffled
from se_flax.data.sources import Dataset, Split


@flax.struct.dataclass
class DeviceSplit:
    """A split as arrays on a device: images uint8 [n, h, w, c], labels int32 [n]."""

    images: UInt8[Array, "n h w c"]
    labels: Int[Array, " n"]

    @classmethod
    def of(cls, split: Split) -> "DeviceSplit":
        """A split, still on the host; `jax.device_put` places it."""
        return cls(split.images, split.labels)


@flax.struct.dataclass
class Batch:
    """One device's share of a batch.

    Attributes:
        images: normalised float32 [b, h, w, c].
        labels: int32 [b].
        mask: bool [b]; False for images that only fill up the last batch and do not count.
    """

    images: Float[Array, "b h w c"]
    labels: Int[Array, " b"]
    mask: Bool[Array, " b"]


@flax.struct.dataclass
class Preprocessing:
    """How uint8 images become the network's input.

    Attributes:
        mean, std: of each channel, on a scale of 0 to 1; the input is (x / 255 - mean) / std.
        crop_padding: in training, this many zeros are put around the normalised image, and an
            image of the original size is cut out at random.
        mirror: in training, half of the images are mirrored left to right.
    """

    mean: tuple[float, ...] = flax.struct.field(pytree_node=False)
    std: tuple[float, ...] = flax.struct.field(pytree_node=False)
    crop_padding: int = flax.struct.field(pytree_node=False, default=0)
    mirror: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def of(cls, dataset: Dataset, crop_padding: int = 0, mirror: bool = False) -> "Preprocessing":
        """Preprocessing for a data set; images that may not be mirrored never are."""
        return cls(dataset.mean, dataset.std, crop_padding, mirror and dataset.mirror)

    def normalize(self, images: UInt8[Array, "*n h w c"]) -> Float[Array, "*n h w c"]:
        """Subtracts the mean of each channel and divides by its standard deviation."""
        scale = 255 * jnp.asarray(self.std)
        return (images - 255 * jnp.asarray(self.mean)) / scale

    def augment(self, key: Key[Array, ""], image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Crops and mirrors a normalised training image at random."""
        crop_key, mirror_key = jax.random.split(key)
        if self.crop_padding:
            around = (self.crop_padding, self.crop_padding)
            padded = jnp.pad(image, (around, around, (0, 0)))
            image = pix.random_crop(key=crop_key, image=padded, crop_sizes=image.shape)
        if self.mirror:
            image = pix.random_flip_left_right(key=mirror_key, image=image)
        return image


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
    order_key, augment_key = jax.random.split(jax.random.key(seed))
    chosen = shuffled(order_key, positions, len(split.labels))
    images = preprocessing.normalize(split.images[chosen])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(augment_key, positions)
    images = jax.vmap(preprocessing.augment)(keys, images)
    return Batch(images, split.labels[chosen], jnp.ones(len(positions), bool))


def eval_batch(
    split: DeviceSplit, preprocessing: Preprocessing, positions: Int[Array, " b"]
) -> Batch:
    """Returns the images at the given positions of a split; those past its end are masked."""
    n = len(split.labels)
    chosen = jnp.minimum(positions, n - 1)
    return Batch(preprocessing.normalize(split.images[chosen]), split.labels[chosen], positions < n)
