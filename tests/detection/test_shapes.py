import hashlib
import subprocess
import sys

import numpy as np
import pytest

from se_flax.detection.annotations import AnnotatedImages, read_image
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.shapes import Shapes, shapes
from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError
from tests.detection.annotated import joined

BACKGROUND = (70, 185)  # levels that a pixel of the background can have, noise included


def digest(count=3):
    result = hashlib.sha256()
    for split in ("train", "test"):
        source = Shapes(split, count)
        for array in (source.annotations.rectangles, *(source[i] for i in range(count))):
            result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()


def drawn(image):
    """Returns the pixels that no background can have."""
    low, high = BACKGROUND
    return ((image < low) | (image > high)).all(axis=-1)


@pytest.fixture(scope="module")
def train():
    return Shapes("train", 300)


def test_they_are_annotated_images(train):
    assert isinstance(train, AnnotatedImages)
    assert train.categories.names == ("circle", "square", "triangle", "star", "cross")
    assert len(train) == len(train.annotations) == 300
    assert read_image(train, 0).shape == (128, 128, 3)
    assert "train image 7 " in train.describe(7)


def test_boxes_are_tight_around_the_drawn_pixels_of_their_shapes(train):
    alone = np.flatnonzero(train.annotations.trained_per_image == 1)
    assert len(alone) > 20
    for i in alone.tolist():
        rows, columns = np.nonzero(drawn(train[i]))
        (box,), _ = train.annotations.truth(i)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(box, expected)
        assert train.annotations.areas[train.annotations.starts[i]] == len(rows)


def test_nothing_is_drawn_outside_the_boxes(train):
    for i in range(100):
        boxes, _ = train.annotations.truth(i)
        pixels = drawn(train[i])
        rows = slice(*train.annotations.starts[i : i + 2])
        assert np.count_nonzero(pixels) == train.annotations.areas[rows].sum()
        for left, top, right, bottom in boxes.astype(int):
            pixels[top:bottom, left:right] = False
        assert not pixels.any()


def test_each_class_fills_as_much_of_its_box_as_its_shape():
    source = Shapes("test", 1500)
    annotations = source.annotations
    sides = annotations.rectangles[:, 2:]
    is_whole = annotations.trained_per_image[annotations.image_of] == 1
    is_whole &= sides.min(axis=1) >= 32  # pixels matter less in large shapes
    filled = annotations.areas / sides.prod(axis=1)
    # Areas by geometry: the smallest and the largest at angles of up to 28 degrees.
    expected = {
        "circle": (np.pi / 4, np.pi / 4),
        "square": (0.547, 1),
        "triangle": (0.465, 0.5),
        "star": (0.319, 0.327),
        "cross": (0.484, 0.530),
    }
    for label, name in enumerate(source.categories.names, 1):
        of_class = filled[is_whole & (annotations.labels == label)]
        assert len(of_class) > 20
        low, high = expected[name]
        assert low - 0.05 < of_class.min() < of_class.max() < high + 0.05


def test_classes_and_numbers_of_shapes_are_balanced(train):
    source = Shapes("train", 1000)
    of_class = np.bincount(source.annotations.labels)[1:]
    per_image = np.bincount(source.annotations.trained_per_image)[1:]
    assert len(of_class) == len(per_image) == 5
    np.testing.assert_allclose(of_class / of_class.sum(), 0.2, atol=0.03)
    np.testing.assert_allclose(per_image / 1000, 0.2, atol=0.05)


def test_shapes_overlap_but_at_least_half_of_each_is_visible():
    annotations = Shapes("train", 1000).annotations
    circles = annotations.labels == 1
    diameter = annotations.rectangles[circles, 2:].max(axis=1)  # at least, if a part is hidden
    visible = annotations.areas[circles] / (np.pi / 4 * diameter**2)
    assert np.mean(visible < 0.9) > 0.1
    assert 0.48 < visible.min() < 0.6


@pytest.mark.slow
def test_they_are_the_same_in_another_process():
    command = "from tests.detection.test_shapes import digest; print(digest())"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert run.stdout.strip() == digest(), run.stderr


def test_an_image_does_not_depend_on_the_number_of_images_nor_on_what_was_read_before(train):
    few = Shapes("train", 5)
    np.testing.assert_array_equal(few[4], train[4])
    np.testing.assert_array_equal(few[4], few[4])
    for got, expected in zip(few.annotations.truth(3), train.annotations.truth(3), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_training_and_test_images_differ():
    train, test = shapes(train=4, test=3, size=64)
    assert (len(train), len(test)) == (4, 3)
    assert train[0].shape == test[0].shape == (64, 64, 3)
    images = [source[i].tobytes() for source in (train, test) for i in range(3)]
    assert len(set(images)) == 6


def test_a_data_set_trains_on_them_at_their_own_size():
    train, test = shapes(train=8, test=4)
    dataset = DetectionDataset.of("shapes", train, test, sizes=Sizes(128, 128, ()))
    for _, own in dataset.eval_feed("test", 4):
        batch = joined(own)
        np.testing.assert_array_equal(batch.images, [test[i] for i in range(4)])
        for boxes, valid, i in zip(batch.boxes, batch.valid, batch.places, strict=True):
            np.testing.assert_array_equal(boxes[valid], test.annotations.truth(int(i))[0])
    assert dataset.num_classes == 6


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"split": "val", "count": 1}, "val"),
        ({"split": "train", "count": 0}, "0"),
        ({"split": "test", "count": 1, "size": 16}, "16 x 16"),
    ],
)
def test_a_wrong_field_is_named(fields, named):
    with pytest.raises(UserError, match=named):
        Shapes(**fields)


def test_there_is_no_image_after_the_last():
    with pytest.raises(IndexError):
        Shapes("train", 2)[2]
