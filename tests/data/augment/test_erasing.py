import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.data import augment
from tests.data.augment.frequencies import assert_frequency


def test_cutout_centres_its_square_on_each_pixel_equally_often():
    height, width, number = 5, 6, 6000
    keys = jax.random.split(jax.random.key(0), number)
    image = jnp.arange(1.0, 1 + height * width * 2).reshape(height, width, 2)
    results = jax.jit(jax.vmap(lambda key: augment.cutout(key, image, 4, fill=-7)))(keys)
    squares = {}
    for row in range(height):
        for column in range(width):
            square = np.array(image)
            square[max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = -7
            squares[square.tobytes()] = (row, column)
    centres = [squares[np.asarray(result).tobytes()] for result in results]
    for centre in squares.values():
        assert_frequency(centres.count(centre), number, 1 / (height * width))


@functools.cache
def erased(probability):
    """4000 images of ones, 40x30, after random erasing with the given probability."""
    keys = jax.random.split(jax.random.key(0), 4000)
    return np.asarray(erase()(keys, jnp.ones((40, 30, 3)), probability))


@functools.cache
def erase():
    return jax.jit(jax.vmap(augment.random_erasing, (0, None, None)))


def sides_of_boxes(image_height, image_width, number):
    """Draws boxes one by one as the authors' code does: areas of 2% to 40%, aspects of 0.3 up."""
    random = np.random.default_rng(0)
    sides = []
    while len(sides) < number:
        pixels = random.uniform(0.02, 0.4) * image_height * image_width
        aspect = random.uniform(0.3, 1 / 0.3)
        height, width = round((pixels * aspect) ** 0.5), round((pixels / aspect) ** 0.5)
        if height < image_height and width < image_width:
            sides.append((height, width))
    return np.transpose(sides)


def test_random_erasing_draws_boxes_of_the_published_areas_and_aspects():
    mask = np.any(erased(0.25) != 1, axis=-1)
    mask = mask[mask.any((1, 2))]
    assert_frequency(len(mask), 4000, 0.25)
    rows, columns = mask.any(2), mask.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    np.testing.assert_array_equal(mask.sum((1, 2)), heights * widths)

    # Sides are rounded to whole pixels.
    areas = heights * widths / 1200
    assert np.all((heights - 0.5) * (widths - 0.5) <= 1200 * 0.4)
    assert np.all((heights + 0.5) * (widths + 0.5) >= 1200 * 0.02)
    assert np.all((heights - 0.5) / (widths + 0.5) <= 1 / 0.3)
    assert np.all((heights + 0.5) / (widths - 0.5) >= 0.3)
    assert heights.max() < 40
    assert widths.max() < 30
    theirs = sides_of_boxes(40, 30, 20_000)
    their_areas, their_aspects = theirs.prod(0) / 1200, theirs[0] / theirs[1]
    assert areas.mean() == pytest.approx(their_areas.mean(), abs=0.01)
    assert areas.std() == pytest.approx(their_areas.std(), abs=0.01)
    assert np.mean(areas > 0.36) == pytest.approx(np.mean(their_areas > 0.36), abs=0.03)
    assert np.mean(heights / widths) == pytest.approx(their_aspects.mean(), abs=0.1)
    assert np.std(heights / widths) == pytest.approx(their_aspects.std(), abs=0.1)

    # All positions in which a box fits are equally likely.
    top, left = rows.argmax(1) / (40 - heights), columns.argmax(1) / (30 - widths)
    assert np.mean(top) == pytest.approx(0.5, abs=0.04)
    assert np.mean(left) == pytest.approx(0.5, abs=0.04)
    assert top.min() == left.min() == 0
    assert top.max() == left.max() == 1


def test_random_erasing_fills_boxes_with_the_mean_of_a_normalised_image():
    assert set(np.unique(erased(0.25))) == {0, 1}
    mask = erased(0.25) == 0
    np.testing.assert_array_equal(mask.any(-1), mask.all(-1))


def test_random_erasing_with_probability_0_or_1_changes_no_image_or_all():
    assert np.all(erased(0.0) == 1)
    assert np.all(np.any(erased(1.0) != 1, axis=(1, 2, 3)))


def test_random_erasing_leaves_an_image_in_which_no_box_fits():
    keys = jax.random.split(jax.random.key(0), 100)
    assert np.all(erase()(keys, jnp.ones((1, 50, 3)), 1.0) == 1)


@pytest.mark.references
def test_the_boxes_of_torchvision_are_drawn_as_by_torchvision():
    from tests.references.torch_models import torch

    erasing = importlib.import_module("torchvision.transforms").RandomErasing
    image, options = torch.ones(3, 80, 60), ((0.02, 0.33), (0.3, 3.3), [0.0])
    theirs = np.array([erasing.get_params(image, *options)[2:4] for _ in range(4000)])

    keys = jax.random.split(jax.random.key(0), 4000)
    form = functools.partial(augment.random_erasing, **augment.ERASING_FORMS["torchvision"])
    results = jax.jit(jax.vmap(form, (0, None, None)))(keys, jnp.ones((80, 60, 1)), 1.0)
    mask = np.asarray(results)[..., 0] == 0
    ours = np.stack([mask.any(2).sum(1), mask.any(1).sum(1)], axis=1)
    for measure in (lambda box: box.prod(1) / 4800, lambda box: np.log(box[:, 0] / box[:, 1])):
        a, b = measure(ours), measure(theirs)
        assert np.mean(a) == pytest.approx(np.mean(b), abs=0.06 * np.std(b))
        assert np.std(a) == pytest.approx(np.std(b), rel=0.06)
        assert abs(np.quantile(a, 0.9) - np.quantile(b, 0.9)) < 0.15 * np.std(b)
