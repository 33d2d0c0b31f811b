"""Augmentation and normalisation of images on the device, inside the jitted step."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, Real, UInt8
from ml_collections import ConfigDict

from se_flax import rng
from se_flax.data import augment

if TYPE_CHECKING:
    from se_flax.data.dataset import ImageDataset


# The class of each image; or for each image and class, 1 if the image has that class and 0 if not.
Labels = Int[ArrayLike, " b"] | UInt8[ArrayLike, "b classes"]


@flax.struct.dataclass
class Batch:
    """One device's share of a batch.

    Attributes:
        images: normalised float32 [b, h, w, c].
        labels: int32 [b]; for images of several classes, uint8 [b, classes] of 0 and 1.
        mask: bool [b]; False for images that only pad the last batch.
        mix_labels: labels of the image that each image is mixed with, or None.
        lam: float32 [b], weight of each image's own label, or None.
        scale: float32 [b], 1 over the mean weight of the whole batch's images, or None.
    """

    images: Float[Array, "b h w c"]
    labels: Int[Array, " b"] | UInt8[Array, "b classes"]
    mask: Bool[Array, " b"]
    mix_labels: Int[Array, " b"] | UInt8[Array, "b classes"] | None = None
    lam: Float[Array, " b"] | None = None
    scale: Float[Array, " b"] | None = None


def _keys_at(key: Key[Array, ""], places: Int[Array, " b"]) -> Key[Array, " b"]:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def _static(default: Any) -> Any:
    return flax.struct.field(pytree_node=False, default=default)


@flax.struct.dataclass
class Preprocessing:
    """Turns uint8 images into the network's input.

    Evaluation uses only `mean` and `std`.

    Attributes:
        mean, std: mean and standard deviation of each channel, on a scale of 0 to 1; the input is
            (x / 255 - mean) / std.
        crop_padding: pixels of mean colour added on each side before a random crop to the
            original size; 0 for no crop.
        horizontal_flip: whether to flip images with probability 1/2.
        policy: a name in `augment.POLICIES`, "randaugment", "randaugment_timm", or "" for none.
        num_ops, magnitude: N and M of both forms of RandAugment (arXiv:1909.13719).
        magnitude_std: see `augment.rand_augment_timm`.
        cutout: side, in pixels, of a square set to the mean (arXiv:1708.04552); 0 for none.
        random_erasing: probability of random erasing (arXiv:1708.04896).
        erasing_form: a name in `augment.ERASING_FORMS`.
        mixup, cutmix: alpha of mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899); 0 for none.
            With both, each is used with probability 1/2.
        mix_batch: number of images of a batch, over all devices, if all its pairs are mixed alike;
            0 if each pair is mixed by itself.
    """

    mean: tuple[float, ...] = flax.struct.field(pytree_node=False)
    std: tuple[float, ...] = flax.struct.field(pytree_node=False)
    crop_padding: int = _static(0)
    horizontal_flip: bool = _static(False)
    policy: str = _static("")
    num_ops: int = _static(2)
    magnitude: float = _static(9.0)
    magnitude_std: float = _static(0.0)
    cutout: int = _static(0)
    random_erasing: float = _static(0.0)
    erasing_form: str = _static("zhong")
    mixup: float = _static(0.0)
    cutmix: float = _static(0.0)
    mix_batch: int = _static(0)

    @classmethod
    def of(
        cls, dataset: "ImageDataset", augment: ConfigDict | Mapping[str, Any] | None = None
    ) -> "Preprocessing":
        """Creates the preprocessing for a data set.

        Args:
            dataset: supplies mean and standard deviation, and whether flips are allowed.
            augment: values of fields by name, for example `config.augment`. Names that are not
                fields are ignored.
        """
        augment = augment or {}
        fields = {name: augment[name] for name in cls.__dataclass_fields__ if name in augment}
        fields["horizontal_flip"] = dataset.horizontal_flip and fields.get("horizontal_flip", False)
        return cls(dataset.mean, dataset.std, **fields)

    def normalize(self, images: Real[ArrayLike, "*n h w c"]) -> Float[Array, "*n h w c"]:
        """Subtracts the mean of each channel and divides by its standard deviation."""
        scale = 255 * jnp.asarray(self.std)
        return (images - 255 * jnp.asarray(self.mean)) / scale

    def train(
        self,
        seed: rng.Seed,
        images: UInt8[ArrayLike, "b h w c"],
        labels: Labels,
        positions: Int[Array, " b"],
    ) -> Batch:
        """Returns augmented training images.

        The augmentation of an image is a function of (seed, position in the run's stream). Mixing
        pairs each image at an even position with the one after it.
        """
        keys = _keys_at(rng.key(seed, rng.Stream.AUGMENT), positions)
        images = jax.vmap(self.augment)(keys, images)
        batch = Batch(images, labels, jnp.ones(len(labels), bool))
        if not (self.mixup or self.cutmix):
            return batch
        keys = _keys_at(rng.key(seed, rng.Stream.MIX), positions[::2] // (self.mix_batch or 2))
        images, lam = augment.mix(keys, images, self.mixup, self.cutmix)
        pairs = labels.reshape(-1, 2, *labels.shape[1:])
        mix_labels = pairs[:, ::-1].reshape(labels.shape)
        return batch.replace(images=images, mix_labels=mix_labels, lam=lam)

    def augment(self, key: Key[Array, ""], image: UInt8[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns a training image, randomly augmented and normalised."""
        import dm_pix as pix  # here, so that importing the package does not load it

        crop_key, flip_key, policy_key, cutout_key, erasing_key = jax.random.split(key, 5)
        image = image.astype(jnp.float32)
        if self.crop_padding:
            shape = image.shape
            around = (self.crop_padding, self.crop_padding)
            mean = 255 * jnp.asarray(self.mean)
            image = jnp.pad(image - mean, (around, around, (0, 0))) + mean
            image = jnp.asarray(pix.random_crop(key=crop_key, image=image, crop_sizes=shape))
        if self.horizontal_flip:
            image = jnp.asarray(pix.random_flip_left_right(key=flip_key, image=image))
        if self.policy:
            image = self._by_policy(policy_key, jnp.round(image))
        image = self.normalize(image)
        if self.cutout:
            image = augment.cutout(cutout_key, image, self.cutout)
        if self.random_erasing:
            form = augment.ERASING_FORMS[self.erasing_form]
            image = augment.random_erasing(erasing_key, image, self.random_erasing, **form)
        return image

    def _by_policy(self, key: Key[Array, ""], image: Float[Array, "h w c"]) -> Array:
        if self.policy == "randaugment":
            return augment.rand_augment(key, image, self.num_ops, self.magnitude)
        if self.policy == "randaugment_timm":
            return augment.rand_augment_timm(
                key, image, self.num_ops, self.magnitude, self.magnitude_std
            )
        return augment.auto_augment(key, image, self.policy)
