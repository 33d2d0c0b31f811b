import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.data import augment
from se_flax.data.preprocessing import Preprocessing
from tests.data.augment.frequencies import assert_frequency

MIXTURES = {
    "mixup": lambda keys, images: augment.mixup(keys, images, 0.4),
    "cutmix": lambda keys, images: augment.cutmix(keys, images, 1.0),
    "mix": lambda keys, images: augment.mix(keys, images, 0.4, 1.0),
}


@functools.cache
def mixed(name):
    """1000 images of 12x10, image i constant i, after mixing, and lam."""
    keys = jax.random.split(jax.random.key(0), 500)
    results = jax.jit(MIXTURES[name])(keys, constant_images())
    return tuple(np.asarray(result) for result in results)


def constant_images():
    return jnp.broadcast_to(jnp.arange(1000.0)[:, None, None, None], (1000, 12, 10, 3))


def partners():
    return np.arange(1000) ^ 1


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixed_image_is_lam_times_itself_plus_the_rest_times_its_neighbour(name):
    results, lam = mixed(name)
    expected = lam * np.arange(1000) + (1 - lam) * partners()
    np.testing.assert_allclose(results.mean((1, 2, 3)), expected, rtol=1e-5)
    np.testing.assert_array_equal(lam[::2], lam[1::2])
    sums = np.broadcast_to((4 * np.arange(500) + 1)[:, None, None, None], results[::2].shape)
    np.testing.assert_allclose(results[::2] + results[1::2], sums, rtol=1e-5)


def test_mixup_draws_lam_from_the_beta_distribution():
    results, lam = mixed("mixup")
    np.testing.assert_allclose(np.ptp(results, axis=(1, 2, 3)), 0)
    lam = lam[::2]
    assert np.all((lam >= 0) & (lam <= 1))
    assert lam.mean() == pytest.approx(0.5, abs=0.07)
    assert lam.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)


def test_cutmix_replaces_boxes_of_the_aspect_ratio_of_the_image():
    results, lam = mixed("cutmix")
    cut = results == partners()[:, None, None, None]
    np.testing.assert_array_equal(cut, results != np.arange(1000)[:, None, None, None])
    np.testing.assert_array_equal(cut, np.broadcast_to(cut[..., :1], cut.shape))
    cut = cut[..., 0]
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    np.testing.assert_array_equal(cut.sum((1, 2)), heights * widths)
    np.testing.assert_allclose(lam, 1 - heights * widths / 120, rtol=1e-6)
    inner = cut[:, [0, -1]].sum((1, 2)) + cut[:, :, [0, -1]].sum((1, 2)) == 0
    assert np.all(np.abs(heights[inner] / 12 - widths[inner] / 10) <= 0.2)
    assert inner.sum() > 100
    assert heights.max() == 10
    covered = cut[::2].mean(0)
    assert covered[0, 0] < 0.7 * covered[6, 5]


def test_mix_uses_mixup_or_cutmix_for_each_pair():
    results, _ = mixed("mix")
    added = (np.ptp(results, axis=(1, 2, 3)) == 0) & (results[:, 0, 0, 0] % 1 != 0)
    np.testing.assert_array_equal(added[::2], added[1::2])
    assert 180 < added[::2].sum() < 320
    whole = results[~added]
    assert np.all(whole % 1 == 0)


@pytest.mark.parametrize(
    ("name", "alphas"), [("mixup", (0.4, 0.0)), ("cutmix", (0.0, 1.0)), (None, (0.0, 0.0))]
)
def test_mix_skips_a_method_with_an_alpha_of_0(name, alphas):
    keys = jax.random.split(jax.random.key(0), 500)
    results = jax.jit(lambda keys, batch: augment.mix(keys, batch, *alphas))(
        keys, constant_images()
    )
    expected = mixed(name) if name else (constant_images(), np.ones(1000))
    jax.tree.map(np.testing.assert_array_equal, results, expected)


def test_how_a_pair_is_mixed_does_not_depend_on_the_rest_of_the_batch():
    keys = jax.random.split(jax.random.key(0), 500)
    part = jax.jit(MIXTURES["mix"])(keys[100:110], constant_images()[200:220])
    expected = (result[200:220] for result in mixed("mix"))
    jax.tree.map(np.testing.assert_array_equal, part, tuple(expected))


def test_all_pairs_of_a_batch_are_mixed_alike_on_request():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 12, 12, 1), np.uint8)
    options = {"mixup": 5.0, "cutmix": 1.0, "mix_batch": 8}
    preprocessing = Preprocessing((0.5,), (0.5,), **options)
    alone = Preprocessing((0.5,), (0.5,), **{**options, "mix_batch": 0})
    train = jax.jit(jax.vmap(lambda p, at: p.train(7, images, np.arange(8), at), (None, 0)))
    positions = jnp.arange(200 * 8).reshape(200, 8)
    batches = train(preprocessing, positions)
    lam = np.asarray(batches.lam)
    np.testing.assert_array_equal(lam, np.broadcast_to(lam[:, :1], lam.shape))
    assert len(np.unique(lam[:, 0])) > 100  # CutMix has few areas
    each = np.asarray(train(alone, positions).lam)
    assert np.all(np.ptp(each, axis=1) > 0)

    # CutMix takes each pixel from one of the two images.
    plain = np.asarray(Preprocessing((0.5,), (0.5,)).normalize(images))
    mixed = np.asarray(batches.images)
    from_one = np.isclose(mixed, plain) | np.isclose(mixed, plain.reshape(4, 2, 12, 12, 1)[:, ::-1]
                                                     .reshape(plain.shape))  # fmt: skip
    is_cutmix = from_one.all(axis=(2, 3, 4))
    np.testing.assert_array_equal(is_cutmix, np.broadcast_to(is_cutmix[:, :1], is_cutmix.shape))
    assert_frequency(np.sum(is_cutmix[:, 0]), 200, 0.5)


def test_the_share_of_a_batch_that_is_mixed_alike_does_not_depend_on_the_devices():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8)
    preprocessing = Preprocessing((0.5,), (0.5,), mixup=1.0, cutmix=1.0, mix_batch=8)
    positions = jnp.arange(24, 32)
    whole = preprocessing.train(7, images, np.arange(8), positions)
    for share in (slice(0, 4), slice(4, 8)):
        part = preprocessing.train(7, images[share], np.arange(8)[share], positions[share])
        np.testing.assert_array_equal(part.images, whole.images[share])
        np.testing.assert_array_equal(part.lam, whole.lam[share])
