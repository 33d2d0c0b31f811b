import dataclasses
import hashlib
import os

import numpy as np
import pytest
import requests

from se_flax.data import Dataset, Split, load_dataset, sources
from se_flax.data.images import decode
from se_flax.data.sources import TfdsImages
from se_flax.errors import UserError


@pytest.mark.parametrize(
    ("name", "classes", "mirror"),
    [("cifar10", 10, True), ("cifar100", 100, True), ("svhn_cropped", 10, False)],
)
def test_prepared_tfds_data_are_read_whole(tfds_dir, name, classes, mirror):
    dataset = load_dataset(name, tfds_dir)
    assert (len(dataset.train), len(dataset.test)) == (200, 110)
    assert dataset.train.images.shape == (200, 32, 32, 3)
    assert dataset.num_classes == classes
    assert dataset.horizontal_flip == mirror
    generator = np.random.default_rng(classes)
    written = {generator.integers(0, 256, (32, 32, 3), np.uint8).tobytes() for _ in range(200)}
    assert {image.tobytes() for image in dataset.train.images} == written
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), 200 // classes)


def test_decoded_data_are_cached_and_a_damaged_copy_is_replaced(tfds_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = load_dataset("cifar10", tfds_dir)
    copies = sorted((tmp_path / "se_flax" / "decoded").iterdir())
    assert len(copies) == 2
    with monkeypatch.context() as context:
        context.setattr(sources, "_decode", None)  # not called
        second = load_dataset("cifar10", tfds_dir)
    for copy in copies:
        copy.write_bytes(copy.read_bytes()[:-100])
    third = load_dataset("cifar10", tfds_dir)
    for dataset in (second, third):
        for split in ("train", "test"):
            expected, got = getattr(first, split), getattr(dataset, split)
            np.testing.assert_array_equal(got.images, expected.images)
            np.testing.assert_array_equal(got.labels, expected.labels)


def test_data_are_read_even_if_they_cannot_be_cached(tfds_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_dataset("cifar10", tfds_dir).test)
    assert "the next start will decode it again" in capsys.readouterr().out


def test_tfds_data_dir_is_read_from_the_environment(tfds_dir, run_python):
    program = "from se_flax.data import load_dataset; print(len(load_dataset('cifar10').test))"
    process = run_python("-c", program, TFDS_DATA_DIR=tfds_dir)
    assert process.stdout.strip() == "110", process.stderr


def test_data_prepared_as_tfrecord_can_be_read(tfds_dir, tmp_path):
    import tensorflow_datasets as tfds

    as_arrays = load_dataset("cifar10", tfds_dir)
    builder = tfds.builder("cifar10", data_dir=tmp_path, file_format="tfrecord")

    def examples(split):
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            yield index, {"image": image, "label": label, "id": str(index)}

    builder._split_generators = lambda *args, **kwargs: {
        "train": examples(as_arrays.train),
        "test": examples(as_arrays.test),
    }
    builder.download_and_prepare()
    read = load_dataset("cifar10", str(tmp_path))
    for split in ("train", "test"):
        ours, expected = getattr(read, split), getattr(as_arrays, split)
        assert {i.tobytes() for i in ours.images} == {i.tobytes() for i in expected.images}
        np.testing.assert_array_equal(np.bincount(ours.labels), np.bincount(expected.labels))


def test_data_neither_prepared_nor_downloadable_give_a_helpful_error(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", no_network)
    with pytest.raises(UserError) as error:
        load_dataset("svhn_cropped", str(tmp_path))
    message = str(error.value)
    assert str(tmp_path) in message
    assert "download_and_prepare()" in message
    assert "TFDS_DATA_DIR" in message
    assert "\n" not in message


def test_an_unknown_data_set_is_reported_with_the_nearest_name():
    with pytest.raises(UserError, match=r'no data set "cifar1000".*"cifar100"'):
        load_dataset("cifar1000")


def test_digits_are_always_split_in_the_same_way():
    digits = load_dataset("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.images.shape[1:] == (8, 8, 1)
    assert digits.train.images.max() == 255
    digest = hashlib.sha256(digits.test.images.tobytes() + digits.test.labels.tobytes())
    assert digest.hexdigest()[:16] == "eb33daa4a6fa9662"
    assert np.bincount(digits.test.labels).min() >= 35  # every class has its share


def test_statistics_are_those_of_the_training_images():
    digits = load_dataset("digits")
    assert digits.mean == pytest.approx([digits.train.images.mean() / 255], abs=1e-4)
    assert digits.std == pytest.approx([digits.train.images.std() / 255], abs=1e-4)


def test_held_out_images_are_removed_from_train_and_always_the_same(stripes):
    first, second = stripes.hold_out(0.2), stripes.hold_out(0.2)
    assert (len(first.train), len(first.validation), len(first.test)) == (80, 20, 37)
    np.testing.assert_array_equal(first.validation.images, second.validation.images)
    together = np.concatenate([first.train.images, first.validation.images])
    assert {image.tobytes() for image in together} == {
        image.tobytes() for image in stripes.train.images
    }


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_holding_out_none_or_all_is_refused(stripes, fraction):
    with pytest.raises(UserError, match="leaves one of the two splits empty"):
        stripes.hold_out(fraction)


def test_arrays_that_are_not_images_are_refused():
    with pytest.raises(UserError, match="must be uint8"):
        Split(np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, int))
    with pytest.raises(UserError, match="2 images but 3 labels"):
        Split(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, int))


@pytest.mark.parametrize("labels", [np.zeros(2), np.full((2, 10), 2), np.zeros((2, 1, 1), int)])
def test_labels_that_are_not_class_numbers_are_refused(labels):
    with pytest.raises(UserError, match="must be integers"):
        Split(np.zeros((2, 8, 8, 3), np.uint8), labels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": (125.0, 122.0, 114.0)}, "mean must be 3 numbers from 0 to 1"),
        ({"std": (0.5,)}, "std must be 3 numbers"),
        ({"test": Split(np.zeros((2, 9, 9, 3), np.uint8), np.array([0, 1]))}, r"\[9, 9, 3\]"),
        ({"validation": Split(np.zeros((1, 8, 8, 3), np.uint8), np.array([7]))}, "from 7 to 7"),
    ],
)
def test_an_inconsistent_data_set_is_refused(stripes, changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(stripes, **changes)


def test_an_existing_validation_split_is_not_replaced(stripes):
    with pytest.raises(UserError, match="already has a validation split; set"):
        stripes.hold_out(0.2).hold_out(0.2)


def test_labels_out_of_range_are_refused():
    split = Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 2]))
    with pytest.raises(UserError, match="labels run from 0 to 2, but there are 2 classes"):
        Dataset("x", split, split, ("a", "b"), (0.5,) * 3, (0.3,) * 3, horizontal_flip=False)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped"])
def test_statistics_of_real_data_are_the_documented_ones(name):
    import tensorflow_datasets as tfds

    if not tfds.builder(name, file_format="array_record").is_prepared():
        pytest.skip(f"{name} is not prepared in TFDS_DATA_DIR")
    dataset = load_dataset(name)
    images = dataset.train.images
    np.testing.assert_allclose(images.mean((0, 1, 2)) / 255, dataset.mean, atol=1e-3)
    np.testing.assert_allclose(images.std((0, 1, 2)) / 255, dataset.std, atol=1e-3)


def test_tfds_images_are_read_one_at_a_time(tfds_dir):
    source, whole = TfdsImages("cifar10", "test", tfds_dir), load_dataset("cifar10", tfds_dir).test
    assert len(source) == 110
    assert len(source.class_names) == 10
    for i in (0, 57, 109):
        np.testing.assert_array_equal(decode(source[i]["image"]), whole.images[i])
        assert source[i]["label"] == whole.labels[i]


def test_a_split_that_tfds_does_not_have_is_reported(tfds_dir):
    with pytest.raises(UserError, match='no split "validation"; its splits are train, test'):
        TfdsImages("cifar10", "validation", tfds_dir)
    with pytest.raises(UserError, match=r'no data set "cifar11".*"cifar10'):
        TfdsImages("cifar11", "test", tfds_dir)
