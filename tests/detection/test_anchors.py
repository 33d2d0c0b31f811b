import numpy as np

from se_flax.detection.anchors import anchors_at_origin, level_anchors


def test_the_smallest_anchors_are_those_that_every_implementation_lists():
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    np.testing.assert_array_equal(anchors_at_origin(32), expected)


def test_anchors_go_row_by_row_and_the_three_of_a_position_follow_each_other():
    found = level_anchors((64, 96), (2, 3), 32)
    assert found.shape == (18, 4)
    centres = (found[:, :2] + found[:, 2:]) / 2
    expected = [[0, 0], [32, 0], [64, 0], [0, 32], [32, 32], [64, 32]]
    np.testing.assert_array_equal(centres, np.repeat(expected, 3, axis=0))


def test_the_step_is_the_whole_number_of_pixels_for_each_position():
    found = level_anchors((800, 1344), (13, 21), 512).reshape(13, 21, 3, 4)
    np.testing.assert_array_equal(found[1, 1] - found[0, 0], [[64, 61, 64, 61]] * 3)
