import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.data import augment
from tests.data.augment.pillow_ops import ARGUMENTS, PILLOW, by_pillow, photograph


@functools.cache
def images(channels=3):
    """A photograph, the same with low contrast, noise, few values, and three constant images."""
    photo = photograph()
    noise = np.random.default_rng(0).integers(0, 256, photo.shape)
    constants = [np.full_like(photo, value) for value in (0, 77, 255)]
    stack = np.stack([photo, photo // 3 + 50, noise, noise // 64 * 60, *constants])
    return stack[..., :channels].astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_equals_pillows(name, channels):
    operation = getattr(augment, name)
    stack = images(channels)
    if ARGUMENTS[name] is None:
        results = jax.jit(jax.vmap(operation))(jnp.float32(stack))[None]
    else:
        over_images = jax.vmap(operation, (0, None))
        arguments = jnp.float32(list(ARGUMENTS[name]))
        results = jax.jit(jax.vmap(over_images, (None, 0)))(jnp.float32(stack), arguments)
    expected = np.stack(
        [
            [by_pillow(name, image, argument) for image in stack]
            for argument in ARGUMENTS[name] or [None]
        ]
    )
    assert results.dtype == jnp.float32
    if name == "rotate":
        # Sine and cosine are float32 here, so a position may round to the adjacent pixel.
        assert np.mean(np.any(results != expected, axis=-1)) < 0.005
    else:
        np.testing.assert_array_equal(results, expected)


def test_auto_contrast_rounds_like_pillow_for_all_ranges_of_values():
    lowest, highest = np.triu_indices(256, 1)
    chosen = np.random.default_rng(0).choice(len(lowest), 3000, replace=False)
    ramps = np.clip(np.arange(256), lowest[chosen, None], highest[chosen, None])
    ramps = ramps.astype(np.uint8).reshape(-1, 16, 16, 1)
    results = jax.jit(jax.vmap(augment.auto_contrast))(jnp.float32(ramps))
    expected = np.stack([by_pillow("auto_contrast", ramp, None) for ramp in ramps])
    assert np.any(expected.max((1, 2)) < 255)
    np.testing.assert_array_equal(results, expected)


def test_a_blend_rounds_like_pillow_for_all_factors_and_values():
    image = photograph()
    factors = np.random.default_rng(0).uniform(0, 2, 400).astype(np.float32)
    blend = jax.jit(jax.vmap(augment.sharpness, (None, 0)))
    expected = [by_pillow("sharpness", image, factor) for factor in factors]
    np.testing.assert_array_equal(blend(jnp.float32(image), factors), np.stack(expected))
