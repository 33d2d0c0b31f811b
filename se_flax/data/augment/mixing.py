"""Mixtures of two images: mixup and cutmix."""

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
    """Returns an image's weight at each of its pixels, and overall."""
    share = jax.random.beta(key, alpha, alpha)
    return share[None, None, None], share


def _cutmix_weight(
    key: Key[Array, ""], image: Image, alpha: float
) -> tuple[Float[Array, "h w 1"], Float[Array, ""]]:
    """Returns an image's weight at each of its pixels, and overall."""
    share_key, centre_key = jax.random.split(key)
    size = np.array(image.shape[:2])
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
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
    weights, shares = jax.vmap(weigh, (0, None))(keys, images[0])
    weights = weights[:, None].astype(images.dtype)
    mixed = weights * pairs + (1 - weights) * pairs[:, ::-1]
    return mixed.reshape(images.shape), jnp.repeat(shares, 2)


def mixup(keys: Key[Array, " pairs"], images: Float[Array, "b h w c"], alpha: float) -> Mixed:
    """Adds each image's neighbour to it, as `mix` does, by one weight for all pixels.

    Zhang et al., 2018, arXiv:1710.09412, section 2: the weight is drawn from Beta(alpha, alpha).
    """
    return _mixed_pairs(keys, images, lambda key, image: _mixup_weight(key, image, alpha))


def cutmix(keys: Key[Array, " pairs"], images: Float[Array, "b h w c"], alpha: float) -> Mixed:
    """Puts a box of each image's neighbour into it, as `mix` does.

    Yun et al., 2019, arXiv:1905.04899, section 3.1 and algorithm A1: the box has the image's shape
    and 1 - Beta(alpha, alpha) of its area; it lies around a random pixel and is cut off at the
    image's border. What is left of the image is its share.
    """
    return _mixed_pairs(keys, images, lambda key, image: _cutmix_weight(key, image, alpha))


def mix(
    keys: Key[Array, " pairs"],
    images: Float[Array, "b h w c"],
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> Mixed:
    """Mixes each image with its neighbour: 0 with 1, 2 with 3, and so on.

    Both images of a pair are mixed alike, each its own share of itself. What happens to a pair
    depends on its key alone, and so not on how a batch is shared among devices. The papers mix an
    image with a random one of the batch, which a neighbour in a shuffled stream is too.

    Args:
        keys: [b / 2], one a pair.
        images: [b, h, w, c], normalised or not; b is even.
        mixup_alpha: alpha of `mixup`; with 0 there is none.
        cutmix_alpha: alpha of `cutmix`; with 0 there is none. If neither is 0, each pair is mixed
            by one or the other, as likely.

    Returns:
        The mixed images, and float32 [b]: the weight of an image's own label. The rest is the
        weight of its neighbour's.
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
