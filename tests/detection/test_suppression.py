import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.detection.suppression import best_boxes, unsuppressed

unsuppressed = jax.jit(unsuppressed, static_argnames="threshold")


def overlap(a, b):
    """Returns the IoU of two boxes, in float32."""
    w = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    h = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    both = np.maximum(w, 0) * np.maximum(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def greedy(boxes, order, threshold):
    """Returns the indices that greedy suppression keeps, in the given order."""
    kept = []
    for i in order:
        if all(not overlap(boxes[j], boxes[i]) > threshold for j in kept):
            kept.append(i)
    return kept


def random_boxes(n, seed, extent=60):
    """Returns boxes with corners on whole pixels, so that equal overlaps and boxes are common."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, extent, (n, 2))
    return np.concatenate([corners, corners + generator.integers(8, 24, (n, 2))], 1).astype("f4")


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_the_boxes_kept_are_those_of_greedy_suppression(threshold):
    for seed in range(5):
        boxes = random_boxes(200, seed)
        valid = np.random.default_rng(seed).random(200) > 0.1
        expected = greedy(boxes, np.flatnonzero(valid), threshold)
        found = np.flatnonzero(unsuppressed(boxes, jnp.asarray(valid), threshold))
        np.testing.assert_array_equal(found, expected)
        assert 10 < len(expected) < valid.sum() - 5


def test_a_long_chain_alternates():
    # Each box overlaps its neighbours only, so every second one is kept.
    x = np.arange(300, dtype=np.float32)
    boxes = np.stack([x, 0 * x, x + 1.5, 0 * x + 1], axis=1)
    kept = unsuppressed(jnp.asarray(boxes), jnp.ones(300, bool), 0.1)
    np.testing.assert_array_equal(kept, np.arange(300) % 2 == 0)


def test_an_overlap_equal_to_the_threshold_is_kept():
    boxes = jnp.asarray([[0, 0, 2, 1], [0, 0, 1, 1]], jnp.float32)
    assert unsuppressed(boxes, jnp.ones(2, bool), 0.5).tolist() == [True, True]
    assert unsuppressed(boxes, jnp.ones(2, bool), 0.49).tolist() == [True, False]


def test_nothing_is_kept_of_padding_alone():
    assert not unsuppressed(jnp.zeros((4, 4)), jnp.zeros(4, bool), 0.5).any()


@pytest.mark.parametrize("count", [5, 40])
def test_the_best_boxes_are_the_first_that_suppression_within_each_class_keeps(count):
    best = jax.jit(best_boxes, static_argnums=(2, 3))
    for seed in range(3):
        boxes = random_boxes(40 * 3, seed, 40).reshape(40, 3, 4)
        # Few different scores, so that many are equal; some boxes must not be picked.
        scores = np.random.default_rng(seed).integers(-2, 10, (40, 3)).astype(np.float32)
        scores[scores < 0] = -np.inf
        index, found = best(boxes, scores, 0.5, count)

        order = np.argsort(-scores.ravel(), kind="stable")
        order = order[np.isfinite(scores.ravel()[order])]
        kept = set()
        for label in range(3):
            kept |= set(greedy(boxes.reshape(-1, 4), order[order % 3 == label], 0.5))
        expected = [i for i in order if i in kept][:count]
        np.testing.assert_array_equal(index[: len(expected)], expected)
        np.testing.assert_array_equal(found[: len(expected)], scores.ravel()[expected])
        assert np.all(found[len(expected) :] == -np.inf)
