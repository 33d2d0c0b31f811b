import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.detection import rescale
from se_flax.detection.boxes import (
    HEAD_WEIGHTS,
    MAX_LOG_SCALE,
    area,
    clip,
    decode,
    encode,
    iou,
    is_larger,
)


def boxes(*values):
    return jnp.asarray(values, jnp.float32)


def test_areas_and_overlaps_are_those_of_rectangles():
    a = boxes([0, 0, 4, 2], [10, 10, 11, 11], [5, 5, 5, 5])
    b = boxes([2, 0, 6, 2], [0, 0, 4, 2], [5, 5, 5, 5])
    np.testing.assert_array_equal(area(a), [8, 1, 0])
    np.testing.assert_allclose(iou(a, b), [[4 / 12, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_a_code_is_the_shift_of_the_centre_and_the_logarithm_of_the_change_of_size():
    anchor, box = boxes([10, 20, 30, 60]), boxes([15, 20, 55, 40])
    expected = [15 / 20, -10 / 40, np.log(2), np.log(1 / 2)]
    np.testing.assert_allclose(encode(box, anchor)[0], expected, rtol=1e-6)
    weighted = encode(box, anchor, HEAD_WEIGHTS)[0]
    np.testing.assert_allclose(weighted, np.multiply(expected, HEAD_WEIGHTS), rtol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), HEAD_WEIGHTS])
def test_decoding_inverts_encoding(weights):
    corners = np.random.default_rng(0).uniform(0, 100, (2, 20, 4)).astype(np.float32)
    corners[..., 2:] += corners[..., :2] + 1
    box, anchor = map(jnp.asarray, corners)
    np.testing.assert_allclose(
        decode(encode(box, anchor, weights), anchor, weights), box, atol=1e-3
    )


def test_a_decoded_size_grows_at_most_by_the_limit():
    (found,) = decode(boxes([0, 0, 100, 1]), boxes([0, 0, 16, 16]))
    np.testing.assert_allclose(found[2] - found[0], 1000, rtol=1e-5)
    np.testing.assert_allclose(found[3] - found[1], 16 * np.e, rtol=1e-5)
    assert np.exp(MAX_LOG_SCALE) == pytest.approx(1000 / 16)


def test_boxes_are_cut_off_at_the_borders_of_their_own_image():
    sizes = boxes([10, 20], [30, 5])
    found = clip(jnp.asarray([[[-3.0, 2, 25, 12]], [[1, -2, 4, 99]]]), sizes)
    np.testing.assert_array_equal(found, [[[0, 2, 20, 10]], [[1, 0, 4, 30]]])


def test_both_sides_must_be_large_enough():
    found = is_larger(boxes([0, 0, 2, 2], [0, 0, 1, 5], [0, 0, 5, 1.9]), 2)
    np.testing.assert_array_equal(found, [True, False, False])


def test_boxes_grow_with_their_image():
    box = jnp.asarray([[[1.0, 2, 3, 4]]])
    found = rescale(box, boxes([10, 20]), boxes([20, 10]))
    np.testing.assert_array_equal(found, [[[0.5, 4, 1.5, 8]]])
