import itertools

import numpy as np
import pytest

from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError


def test_the_short_side_becomes_800_and_the_long_one_at_most_1333():
    sizes = np.array([[480, 640], [640, 480], [300, 1000], [2000, 800], [800, 800]])
    expected = [[800, 1066], [1066, 800], [399, 1333], [1333, 533], [800, 800]]
    np.testing.assert_array_equal(Sizes().resized(sizes), expected)


def test_an_image_is_padded_to_the_smallest_size_that_it_fits_into():
    assert Sizes().padded == ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    sizes = np.array([[480, 640], [640, 480], [426, 640], [640, 426], [500, 500], [5, 500]])
    np.testing.assert_array_equal(Sizes().groups(sizes), [0, 1, 2, 3, 0, 2])


@pytest.mark.parametrize(
    "sizes", [Sizes(), Sizes(320, 533), Sizes(64, 64), Sizes(100, 101, ()), Sizes(50, 90, (1, 2))]
)
def test_every_image_fits_and_padded_sizes_are_multiples_of_the_stride(sizes):
    shapes = np.array(list(itertools.product((1, 7, 33, 99, 480, 640, 1001), repeat=2)))
    padded = np.array(sizes.padded)
    assert (padded % 32 == 0).all()
    assert len(set(sizes.padded)) == len(sizes.padded)
    assert (sizes.resized(shapes) >= 1).all()
    assert (sizes.resized(shapes) <= padded[sizes.groups(shapes)]).all()


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"short side \(900\) must have .* the long side \(800\)"):
        Sizes(900, 800)
    with pytest.raises(UserError, match=r"short side \(0\)"):
        Sizes(0, 800)
    with pytest.raises(UserError, match=r"aspects \(0.75,\) must be at least 1"):
        Sizes(aspects=(0.75,))
