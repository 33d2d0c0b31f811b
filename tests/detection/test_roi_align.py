import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from se_flax.detection.roi_align import roi_align

align = jax.jit(roi_align, static_argnames=("strides", "size"))


def plane(height, width, a, b):
    """Returns a map [1, height, width, 1] with the value a * x + b * y at position (x, y)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return jnp.asarray(a * x + b * y)[None, :, :, None]


def pool(x, *boxes, stride=1, size=2):
    boxes = jnp.asarray([boxes], jnp.float32)
    levels = jnp.zeros(boxes.shape[:2], int)
    return align([x], boxes, levels, strides=(stride,), size=size)[0, ..., 0]


def test_a_plane_is_sampled_at_the_centres_of_the_bins():
    found = pool(plane(20, 20, 2.0, 30.0), [4, 6, 8, 12])
    x, y = np.array([5, 7]), np.array([7.5, 10.5])
    np.testing.assert_allclose(found[0], 2 * x + 30 * y[:, None], rtol=1e-6)


def test_a_box_in_pixels_is_divided_by_the_stride():
    x = plane(20, 20, 2.0, 30.0)
    np.testing.assert_allclose(pool(x, [32, 48, 64, 96], stride=8), pool(x, [4, 6, 8, 12]))


def test_a_box_smaller_than_a_position_is_taken_to_be_one_wide_and_high():
    x = plane(20, 20, 2.0, 30.0)
    np.testing.assert_allclose(pool(x, [4, 6, 4.1, 6.2]), pool(x, [4, 6, 5, 7]), rtol=1e-6)


def test_over_the_border_the_value_is_that_at_the_border_and_further_out_0():
    ones = jnp.ones((1, 8, 8, 1))
    # Points of the row are at x = -1.5, -0.5, 0.5 and 1.5, in two bins.
    np.testing.assert_allclose(pool(ones, [-2, 0, 2, 4]), [[[0.5, 1], [0.5, 1]]])
    x = plane(8, 8, 1.0, 0.0)
    # Points at 5.5, 6.5, 7.5 and 8.5: the third counts as 7, and the last is further out.
    np.testing.assert_allclose(pool(x, [5, 0, 9, 4]), [[[6, 3.5], [6, 3.5]]])


def test_each_box_is_pooled_from_its_own_level_and_image():
    generator = np.random.default_rng(0)
    fine = jnp.asarray(generator.standard_normal((2, 12, 16, 3)), jnp.float32)
    coarse = jnp.asarray(generator.standard_normal((2, 6, 8, 3)), jnp.float32)
    boxes = jnp.asarray(generator.uniform(0, 30, (2, 5, 4)), jnp.float32).at[..., 2:].add(15)
    levels = jnp.asarray([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]])
    found = align([fine, coarse], boxes, levels, strides=(4, 8))
    assert found.shape == (2, 5, 7, 7, 3)
    for level, (x, stride) in enumerate([(fine, 4), (coarse, 8)]):
        for image in range(2):
            alone = align([x[image, None]], boxes[image, None], 0 * levels[:1], strides=(stride,))
            here = levels[image] == level
            np.testing.assert_allclose(found[image][here], alone[0][here], rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        fine = jnp.asarray(generator.standard_normal((2, 6, 8, 2)))
        coarse = jnp.asarray(generator.standard_normal((2, 3, 4, 2)))
        boxes = jnp.asarray(generator.uniform(-4, 20, (2, 4, 4))).at[..., 2:].add(9)
        levels = jnp.asarray([[0, 1, 1, 0], [1, 0, 0, 1]])
        weights = jnp.asarray(generator.standard_normal((2, 4, 3, 3, 2)))

        @jax.jit
        def value(maps, boxes):
            return jnp.sum(weights * roi_align(maps, boxes, levels, [4, 8], size=3))

        check_grads(lambda maps: value(maps, boxes), ([fine, coarse],), order=1, modes=["rev"])
        assert not jax.jit(jax.grad(value, argnums=1))([fine, coarse], boxes).any()


def test_it_computes_in_half_precision_for_maps_in_half_precision():
    x = plane(20, 20, 2.0, 3.0)
    found = pool(x.astype(jnp.bfloat16), [4, 6, 8, 12])
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), pool(x, [4, 6, 8, 12]), rtol=0.01)
