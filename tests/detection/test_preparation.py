import numpy as np
import pytest

from se_flax.detection import prepare
from se_flax.detection.preparation import resize, resized
from se_flax.errors import UserError


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 1066.67 is cut off
        ((640, 480), (1066, 800)),
        ((400, 1000), (533, 1333)),
        ((800, 1333), (800, 1333)),
    ],
)
def test_the_short_side_becomes_800_and_the_long_side_at_most_1333(size, expected):
    assert resized(size) == expected


def test_resizing_is_bilinear_between_the_centres_of_pixels():
    image = np.arange(4, dtype=np.float32)[None, :, None]
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(resize(image, (1, 8))[0, :, 0], expected)
    np.testing.assert_allclose(resize(image, (1, 2))[0, :, 0], [0.5, 2.5])


def test_images_are_normalised_and_padded_to_multiples_of_32():
    images = [np.full((20, 30, 3), 255, np.uint8), np.zeros((30, 20, 3), np.uint8)]
    found = prepare(images, short=40, long=66, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert found.images.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(found.sizes, [[40, 60], [60, 40]])
    np.testing.assert_array_equal(found.original_sizes, [[20, 30], [30, 20]])
    np.testing.assert_allclose(found.images[0, :40, :60], 2)
    np.testing.assert_allclose(found.images[1, :60, :40], -2)
    assert not found.images[0, 40:].any()
    assert not found.images[0, :, 60:].any()


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="40 x 60, which does not fit into the padded size of 32 x"):
        prepare([np.zeros((20, 30, 3), np.uint8)], (32, 64), short=40)
