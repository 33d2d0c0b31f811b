import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.data import load_dataset
from se_flax.data.memory import DeviceSplit, eval_batch, train_batch
from se_flax.data.preprocessing import Preprocessing


def test_normalisation_is_the_usual_one(stripes):
    images = stripes.train.images[:3]
    expected = (images / 255 - np.array(stripes.mean)) / np.array(stripes.std)
    normalized = Preprocessing.of(stripes).normalize(images)
    np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mirror", [False, True])
def test_an_augmented_image_is_a_crop_of_the_zero_padded_one_flipped_or_not(stripes, mirror):
    preprocessing = Preprocessing(stripes.mean, stripes.std, crop_padding=2, horizontal_flip=mirror)
    raw = stripes.train.images[0]
    image = np.asarray(jax.jit(preprocessing.normalize)(raw))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    candidates = {}
    for i in range(5):
        for j in range(5):
            crop = padded[i : i + 8, j : j + 8]
            candidates[crop.tobytes()] = (i, j, False)
            if mirror:
                candidates[crop[:, ::-1].tobytes()] = (i, j, True)

    keys = jax.random.split(jax.random.key(0), 1000)
    augmented = jax.jit(jax.vmap(preprocessing.augment, (0, None)))(keys, raw)
    seen = [candidates[np.asarray(result).tobytes()] for result in augmented]
    assert set(seen) == set(candidates.values())
    if mirror:
        assert 400 < sum(flipped for _, _, flipped in seen) < 600


def test_digits_are_never_flipped():
    assert not Preprocessing.of(load_dataset("digits"), {"horizontal_flip": True}).horizontal_flip


def test_a_batch_depends_only_on_seed_and_position(stripes):
    split = DeviceSplit.of(stripes.train)
    preprocessing = Preprocessing.of(stripes, {"crop_padding": 1})
    whole = train_batch(split, preprocessing, jnp.uint32(3), jnp.arange(90, 122))
    for start in range(90, 122, 8):
        share = train_batch(split, preprocessing, jnp.uint32(3), start + jnp.arange(8))
        expected = jax.tree.map(lambda x, start=start: x[start - 90 : start - 82], whole)
        jax.tree.map(np.testing.assert_array_equal, share, expected)
    other = train_batch(split, preprocessing, jnp.uint32(4), jnp.arange(90, 122))
    assert not np.array_equal(other.labels, whole.labels)


def test_images_keep_their_labels(stripes):
    split = DeviceSplit.of(stripes.train)
    preprocessing = Preprocessing.of(stripes)
    batch = train_batch(split, preprocessing, jnp.uint32(0), jnp.arange(100))
    normalized = np.asarray(preprocessing.normalize(stripes.train.images))
    label_of = {
        image.tobytes(): label
        for image, label in zip(normalized, stripes.train.labels, strict=True)
    }
    labels = [label_of[np.asarray(image).tobytes()] for image in batch.images]
    np.testing.assert_array_equal(batch.labels, labels)


def test_evaluation_takes_images_in_order_and_masks_positions_past_the_end(stripes):
    batch = eval_batch(DeviceSplit.of(stripes.test), Preprocessing.of(stripes), 32 + jnp.arange(8))
    np.testing.assert_array_equal(batch.mask, [True] * 5 + [False] * 3)
    np.testing.assert_array_equal(batch.labels[:5], stripes.test.labels[32:])


def test_every_augmentation_depends_only_on_seed_and_position(stripes):
    split = jax.device_put(DeviceSplit.of(stripes.train))
    preprocessing = Preprocessing(
        stripes.mean, stripes.std, horizontal_flip=True, crop_padding=1,
        policy="autoaugment_cifar10", cutout=3, random_erasing=0.5, mixup=0.2, cutmix=1.0,
    )  # fmt: skip
    batch = jax.jit(lambda positions: train_batch(split, preprocessing, 3, positions))
    whole = batch(jnp.arange(90, 122))
    for start in range(90, 122, 8):
        share = batch(start + jnp.arange(8))
        expected = jax.tree.map(lambda x, start=start: x[start - 90 : start - 82], whole)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), share, expected
        )
    np.testing.assert_array_equal(whole.mix_labels[::2], whole.labels[1::2])
    assert 0.3 < float(whole.lam.mean()) < 0.95
