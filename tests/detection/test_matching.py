import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.detection import Truth
from se_flax.detection.matching import assign, picked, sample

assign = jax.jit(assign, static_argnames=("high", "low", "low_quality"))
sample = jax.jit(sample, static_argnames=("count", "fraction"))


def one_image(*rows):
    return jnp.asarray([rows], jnp.float32)


TRUTH = Truth(
    boxes=one_image([0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]),
    labels=jnp.asarray([[3, 5, 7]]),
    valid=jnp.asarray([[True, True, False]]),
)
#                  IoU 1            0.5             0.3             0.2             0
BOXES = one_image([0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 3, 10], [20, 0, 22, 10], [50, 50, 60, 60])


def labels(boxes=BOXES, truth=TRUTH, **options):
    valid = jnp.ones(boxes.shape[:2], bool)
    return assign(boxes, valid, truth, **options).labels[0]


def test_labels_depend_on_the_largest_overlap():
    np.testing.assert_array_equal(labels(high=0.5, low=0.5), [3, 3, 0, 0, 0])
    np.testing.assert_array_equal(labels(high=0.7, low=0.25), [3, -1, -1, 0, 0])


def test_with_low_quality_matches_every_true_box_has_one():
    found = labels(high=0.7, low=0.25, low_quality=True)
    np.testing.assert_array_equal(found, [3, -1, -1, 5, 0])


def test_ties_for_the_largest_overlap_of_a_true_box_all_match():
    boxes = one_image([20, 0, 22, 10], [28, 0, 30, 10], [21, 0, 22, 10])
    np.testing.assert_array_equal(labels(boxes, high=0.7, low=0.3, low_quality=True)[:2], [5, 5])


def test_a_box_is_given_the_true_box_that_it_overlaps_most():
    found = assign(BOXES, jnp.ones((1, 5), bool), TRUTH, 0.5, 0.5).boxes[0]
    np.testing.assert_array_equal(found[:4], TRUTH.boxes[0][jnp.array([0, 0, 0, 1])])


def test_without_true_boxes_everything_is_background():
    empty = TRUTH._replace(valid=jnp.zeros((1, 3), bool))
    np.testing.assert_array_equal(labels(truth=empty, high=0.7, low=0.3, low_quality=True), [0] * 5)


def test_padding_is_ignored():
    valid = jnp.asarray([[False, True, True, True, False]])
    found = assign(BOXES, valid, TRUTH, 0.5, 0.5).labels[0]
    np.testing.assert_array_equal(found, [-1, 3, 0, 0, -1])


@pytest.mark.parametrize(
    ("objects", "others", "expected"),
    [(100, 100, (4, 12)), (2, 100, (2, 14)), (0, 100, (0, 16)), (100, 5, (4, 5)), (1, 2, (1, 2))],
)
def test_a_sample_has_at_most_a_fraction_of_objects_and_is_filled_with_background(
    objects, others, expected
):
    values = np.repeat([7, 0, -1], [objects, others, 50])
    values = np.random.default_rng(0).permutation(values)[None]
    drawn = sample(jax.random.key(0), jnp.asarray(values), count=16, fraction=0.25)
    assert drawn.indices.shape == drawn.valid.shape == (1, 16)
    chosen = picked(jnp.asarray(values), drawn)[drawn.valid]
    assert (
        (np.sum(chosen == 7), np.sum(chosen == 0))
        == expected
        == (sum(chosen > 0), sum(chosen == 0))
    )
    assert len(np.unique(drawn.indices[drawn.valid])) == sum(expected)


def test_every_box_is_as_likely_to_be_drawn_as_any_other():
    values = jnp.asarray([[1] * 8 + [0] * 8])
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.vmap(lambda key: sample(key, values, count=8, fraction=0.5).indices[0])(keys)
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=16)
    np.testing.assert_allclose(counts / 2000, 0.5, atol=0.05)


def test_the_images_of_a_batch_are_drawn_independently():
    values = jnp.tile(jnp.asarray([1] * 50 + [0] * 50), (2, 1))
    first, second = sample(jax.random.key(0), values, count=16, fraction=0.5).indices
    assert set(first.tolist()) != set(second.tolist())
