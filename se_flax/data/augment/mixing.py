"""Mixup and cutmix: mixtures of two images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from se_flax.data.augment.erasing import Image, box_mask

Mixed = tuple[Float[Array, "b h w c"], Float[Array, " b"]]


def _mixup_weight(
    key: Key[Array, ""], _image: Image, alpha: float
) -> tuple[Float[Array, "1 1 1"], Float[Array, ""]]:
    """Returns an image's own weight at each pixel, and their mean, lam."""
    lam = jax.random.beta(key, alpha, alpha)
    return lam[None, None, None], lam


def _cutmix_weight(
    key: Key[Array, ""], image: Image, alpha: float
) -> tuple[Float[Array, "h w 1"], Float[Array, ""]]:
    """Returns an image's own weight at each pixel, and their mean, lam."""
    lam_key, centre_key = jax.random.split(key)
    size = np.array(image.shape[:2])
    side = jnp.sqrt(1 - jax.random.beta(lam_key, alpha, alpha))
    half = (size * side).astype(jnp.int32) // 2
    start = jax.random.randint(centre_key, (2,), 0, size) - half
    weight = 1.0 - box_mask(image, *start, *(2 * half))
    return weight, weight.mean()


def _mixed_pairs(
    keys: Key[Array, " pairs"],
    images: Float[Array, "b h w c"],
    weigh: Callable[[Key[Array, ""], Image], tuple[Array, Array]],
) -> Mixed:
    pairs = images.reshape(len(keys), 2, *images.shape[1:])
    weights, lam = jax.vmap(weigh, (0, None))(keys, images[0])
    weights = weights[:, None].astype(images.dtype)
    mixed = weights * pairs + (1 - weights) * pairs[:, ::-1]
    return mixed.reshape(images.shape), jnp.repeat(lam, 2)


def mixup(keys: Key[Array, " pairs"], images: Float[Array, "b h w c"], alpha: float) -> Mixed:
    """Returns lam * image + (1 - lam) * neighbour for each image, and lam; see `mix`.

    Zhang et al., 2018, arXiv:1710.09412, section 2: lam is drawn from Beta(alpha, alpha).
    """
    return _mixed_pairs(keys, images, lambda key, image: _mixup_weight(key, image, alpha))


def cutmix(keys: Key[Array, " pairs"], images: Float[Array, "b h w c"], alpha: float) -> Mixed:
    """Replaces a box in each image by the same box of its neighbour; see `mix`.

    Yun et al., 2019, arXiv:1905.04899, section 3.1 and algorithm A1: the box has the aspect ratio
    of the image, and its area is the fraction 1 - Beta(alpha, alpha) of the image's. It is centred
    on a random pixel and clipped at the image's border. lam is the fraction of the image that is
    not replaced.
    """
    return _mixed_pairs(keys, images, lambda key, image: _cutmix_weight(key, image, alpha))


def mix(
    keys: Key[Array, " pairs"],
    images: Float[Array, "b h w c"],
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> Mixed:
    """Mixes each image with its neighbour: 0 with 1, 2 with 3, and so on.

    Both images of a pair use the same lam and the same box. They depend on the pair's key alone,
    so they do not change with the number of devices that share a batch. The papers mix an image
    with a random one of the batch. In a shuffled stream, the neighbour is a random one as well.

    Args:
        keys: [b / 2], one per pair.
        images: [b, h, w, c], normalised or not; b is even.
        mixup_alpha: alpha of `mixup`; 0 for none.
        cutmix_alpha: alpha of `cutmix`; 0 for none. If neither alpha is 0, each pair gets mixup or
            cutmix with equal probability.

    Returns:
        The mixed images, and lam, float32 [b]: the weight of an image's own label. Its neighbour's
        label has the weight 1 - lam.
    """
    if not mixup_alpha and not cutmix_alpha:
        return images, jnp.ones(len(images))
    if not cutmix_alpha:
        return mixup(keys, images, mixup_alpha)
    if not mixup_alpha:
        return cutmix(keys, images, cutmix_alpha)

    def weigh(key: Key[Array, ""], image: Image) -> tuple[Array, Array]:
        choice_key, weight_key = jax.random.split(key)
        is_cutmix = jax.random.bernoulli(choice_key)
        cut = _cutmix_weight(weight_key, image, cutmix_alpha)
        added = _mixup_weight(weight_key, image, mixup_alpha)
        return jax.tree.map(lambda a, b: jnp.where(is_cutmix, a, b), cut, added)

    return _mixed_pairs(keys, images, weigh)
