import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.detection.annotations import Annotations
from se_flax.detection.batches import EvalFeed, normalized, prepare, train_batches
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError
from tests.detection.annotated import CATEGORIES, Noise, Pictures

SIZES = Sizes(32, 64, (1,))
SHAPES = list(itertools.islice(itertools.cycle([(20, 20), (20, 30), (40, 21), (16, 64)]), 22))


def train(source, first_step=0, total_steps=8, **options):
    options = {"batch_size": 4, "seed": 5, **options}
    return list(
        train_batches(source, SIZES, first_step=first_step, total_steps=total_steps, **options)
    )


def assert_equal(batch, expected):
    for found, wanted in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_images_of_a_batch_share_a_padded_size_and_have_their_own_inside():
    source = Pictures(SHAPES)
    batches = train(source)
    assert {batch.images.shape for batch in batches} == {
        (4, 32, 32, 3), (4, 64, 32, 3), (4, 32, 64, 3),
    }  # fmt: skip
    for batch in batches:
        assert batch.mask.all()
        for image, size, place in zip(batch.images, batch.sizes, batch.places, strict=True):
            height, width = size.astype(int)
            assert min(height, width) == 32 or max(height, width) == 64
            assert (image[:height, :width] == place).all()
            assert not image[height:].any()
            assert not image[:, width:].any()


def test_boxes_follow_their_image():
    source = Pictures(SHAPES)
    flipped = []
    for batch in train(source):
        for k, place in enumerate(batch.places.tolist()):
            truth, labels = source.annotations.truth(place)
            valid = batch.valid[k]
            assert valid.tolist() == [i < len(truth) for i in range(4)]
            assert not batch.boxes[k][~valid].any()
            assert not batch.labels[k][~valid].any()
            np.testing.assert_array_equal(batch.labels[k][valid], labels)
            (height, width), (h, w) = batch.sizes[k], source.annotations.sizes[place]
            expected = truth * [width / w, height / h, width / w, height / h]
            mirrored = expected * [-1, 1, -1, 1] + [width, 0, width, 0]
            mirrored = mirrored[:, [2, 1, 0, 3]]
            is_flipped = [
                np.allclose(batch.boxes[k][valid], each, rtol=1e-5) for each in (expected, mirrored)
            ]
            assert sum(is_flipped) == 1
            flipped.append(is_flipped[1])
    assert 8 < sum(flipped) < 24
    assert len(set(map(tuple, np.reshape(flipped, (8, 4))))) > 3  # not the same in every batch


def test_the_pixels_of_a_box_are_flipped_and_resized_with_it():
    image = np.zeros((10, 20, 3), np.uint8)
    image[2:6, 3:8] = 200
    box = np.array([[3, 2, 8, 6]], np.float32)
    for flip in (False, True):
        out = np.zeros((32, 64, 3), np.uint8)
        ((left, top, right, bottom),) = prepare(image, box, np.array([30, 60]), flip, out)
        assert (left, right) == ((36, 51) if flip else (9, 24))
        assert (top, bottom) == (6, 18)
        rows, columns = np.nonzero(out[..., 0] >= 100)
        assert (rows.min(), rows.max() + 1) == (top, bottom)
        assert (columns.min(), columns.max() + 1) == (left, right)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_depend_only_on_the_step(workers):
    whole = train(Noise(SHAPES), total_steps=12)
    for first in (5, 11):
        later = train(Noise(SHAPES), first, 12, workers=workers)
        assert len(later) == 12 - first
        for batch, expected in zip(later, whole[first:], strict=True):
            assert_equal(batch, expected)
    other = train(Noise(SHAPES), seed=6, total_steps=1)
    assert not np.array_equal(other[0].places, whole[0].places)


def test_images_are_flipped_only_if_that_is_wanted():
    source = Noise([(20, 20)] * 4)
    for horizontal_flip in (False, True):
        batches = train(source, total_steps=4, horizontal_flip=horizontal_flip)
        by_image = {}
        for batch in batches:
            for place, image in zip(batch.places, batch.images, strict=True):
                by_image.setdefault(int(place), set()).add(image.tobytes())
        assert {len(each) for each in by_image.values()} <= ({1, 2} if horizontal_flip else {1})
        assert any(len(each) == 2 for each in by_image.values()) == horizontal_flip


@pytest.mark.parametrize("process", [0, 1])
def test_each_process_has_its_share_of_every_batch(process, monkeypatch):
    source = Noise(SHAPES)
    whole, evaluated = train(source), [own for _, own in EvalFeed(source, SIZES, 4)]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    own = slice(2 * process, 2 * process + 2)
    for batch, expected in zip(train(source), whole, strict=True):
        assert_equal(batch, jax.tree.map(lambda x: x[own], expected))
    for (_, batch), expected in zip(EvalFeed(source, SIZES, 4), evaluated, strict=True):
        assert_equal(batch, jax.tree.map(lambda x: x[:, own], expected))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_image_is_evaluated_once_and_not_flipped(batch_size):
    source = Noise(SHAPES, least=0)
    feed = EvalFeed(source, SIZES, batch_size)
    batches = [jax.tree.map(lambda x: x[0], own) for _, own in feed]
    assert len(batches) == len(feed)
    places = np.concatenate([batch.places[batch.mask] for batch in batches])
    assert sorted(places) == list(range(22))
    for batch in batches:
        assert not batch.valid[~batch.mask].any()
        for k in np.flatnonzero(batch.mask):
            place = int(batch.places[k])
            boxes, _ = source.annotations.truth(place)
            out = np.zeros_like(batch.images[k])
            size = batch.sizes[k].astype(int)
            boxes = prepare(source[place], boxes, size, False, out)
            np.testing.assert_array_equal(batch.images[k], out)
            np.testing.assert_array_equal(batch.boxes[k][batch.valid[k]], boxes)


def test_normalised_images_have_zeros_in_the_padding():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    sizes = np.array([[6, 5], [3, 8]], np.float32)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    found = normalized(jnp.asarray(images), jnp.asarray(sizes), mean, std)
    expected = (images / 255 - mean) / std
    expected[0, :, 5:] = expected[1, 3:] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_more_boxes_than_places_are_refused():
    source = Pictures(SHAPES)
    assert train(source, total_steps=1, max_boxes=6)[0].boxes.shape == (4, 6, 4)
    with pytest.raises(UserError, match=r"picture \d+ has 4 boxes, but there are places for 3"):
        train(source, max_boxes=3)


def test_images_without_boxes_have_a_place():
    batch = next(iter(EvalFeed(Pictures([(20, 20)], least=0, most=0), SIZES, 1)))[1]
    assert batch.boxes.shape == (1, 1, 1, 4)
    assert not batch.valid.any()


def test_a_data_set_trains_on_images_with_boxes_and_resumes_at_a_step():
    source, test = Noise(SHAPES, least=0), Noise(SHAPES, seed=1)
    dataset = DetectionDataset.of("noise", source, test, sizes=SIZES)
    empty = {i for i in range(len(SHAPES)) if not len(source.annotations.truth(i)[0])}
    assert empty
    assert len(dataset.splits["train"]) == len(source) - len(empty)
    assert dataset.class_names == CATEGORIES.names
    assert dataset.num_classes == 4
    feed = dataset.train_feed(4, seed=1, total_steps=6)
    whole = []
    for step in range(6):
        whole.append(jax.device_get(feed.inputs(step)[1]))
        feed.prefetch(step + 1)
    feed.close()
    assert all(batch.valid.any(axis=-1).all() for batch in whole)
    assert_equal(dataset.train_feed(4, seed=1, total_steps=6).inputs(4)[1], whole[4])
    assert len(list(dataset.eval_feed("test", 8))) == len(dataset.eval_feed("test", 8))


def test_annotations_of_some_images_are_their_own():
    source = Pictures(SHAPES, least=0)
    some = source.annotations.of_images([5, 2, 9])
    assert isinstance(some, Annotations)
    assert some.image_ids == (105, 102, 109)
    for i, place in enumerate((5, 2, 9)):
        for found, expected in zip(some.truth(i), source.annotations.truth(place), strict=True):
            np.testing.assert_array_equal(found, expected)
