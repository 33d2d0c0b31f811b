"""Cutout and random erasing: both fill a box of the image."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Real

Image = Float[Array, "h w c"]

ATTEMPTS = 100  # sizes of a box that random erasing draws


def box_mask(
    image: Image, top: Array | int, left: Array | int, height: Array | int, width: Array | int
) -> Bool[Array, "h w 1"]:
    """Returns a mask that is True inside a box, in pixels. The box may extend beyond the image."""
    y, x = jnp.arange(image.shape[0])[:, None, None], jnp.arange(image.shape[1])[:, None]
    return (top <= y) & (y < top + height) & (left <= x) & (x < left + width)


def cutout(
    key: Key[Array, ""],
    image: Image,
    size: Int[Array, ""] | int,
    fill: Real[Array, ""] | float = 0.0,
) -> Image:
    """Fills a square around a random pixel, clipped at the image's border.

    DeVries & Taylor, 2017, arXiv:1708.04552, section 3.2, where the image is normalised and the
    fill is 0. AutoAugment's cutout is the same with a fill of 128.

    Args:
        key: for the position of the square.
        image: [h, w, c].
        size: side of the square in pixels.
        fill: value of the filled pixels.
    """
    top, left = jax.random.randint(key, (2,), 0, np.array(image.shape[:2])) - size // 2
    return jnp.where(box_mask(image, top, left, size, size), jnp.asarray(fill, image.dtype), image)


ERASING_FORMS = {
    "zhong": {},
    "torchvision": {"area": (0.02, 0.33), "aspect": (0.3, 3.3), "log_aspect": True},
}
"""Arguments of `random_erasing` for the boxes of its authors' code, and of torchvision's."""


def random_erasing(
    key: Key[Array, ""],
    image: Image,
    probability: Float[Array, ""] | float,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    log_aspect: bool = False,
) -> Image:
    """Fills a random box with the mean, with the given probability.

    Zhong et al., 2017, arXiv:1708.04896, in the form of the authors' code (transforms.py of
    github.com/zhunzhong07/Random-Erasing): the box lies inside the image, up to 100 draws of its
    size are tried, and the first that fits is used; if none does, the image is returned unchanged.
    The mean of a normalised image is 0; that code writes the mean's own numbers, 0.4914 for red.
    The paper's algorithm 1 fills with random values instead, and timm's random erasing draws areas
    up to 1/3, log-uniform aspects and normal noise. For torchvision's, see `ERASING_FORMS`.

    Args:
        key: for all random choices.
        image: normalised, [h, w, c].
        probability: of erasing anything.
        area: range of the box's area as a fraction of the image's; drawn uniformly.
        aspect: range of the box's height divided by its width; drawn uniformly.
        log_aspect: whether its logarithm is drawn uniformly instead.
    """
    height, width, _ = image.shape
    apply_key, area_key, aspect_key, top_key, left_key = jax.random.split(key, 5)
    pixels = height * width * jax.random.uniform(area_key, ATTEMPTS, minval=area[0], maxval=area[1])
    low, high = np.log(aspect) if log_aspect else aspect
    aspects = jax.random.uniform(aspect_key, ATTEMPTS, minval=low, maxval=high)
    aspects = jnp.exp(aspects) if log_aspect else aspects
    heights = jnp.round(jnp.sqrt(pixels * aspects)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(pixels / aspects)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    box_height, box_width = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, height - box_height + 1)
    left = jax.random.randint(left_key, (), 0, width - box_width + 1)
    erased = fits[first] & (jax.random.uniform(apply_key) < probability)
    box = box_mask(image, top, left, box_height, box_width)
    return jnp.where(erased & box, jnp.zeros((), image.dtype), image)
