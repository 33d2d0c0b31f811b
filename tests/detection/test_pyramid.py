import jax
import jax.numpy as jnp
import numpy as np

from se_flax.detection.pyramid import FeaturePyramid, levels_of, pool_regions


def test_each_level_is_a_convolution_of_the_stage_and_the_doubled_coarser_level():
    stages = [jnp.ones((1, 16 >> i, 24 >> i, 3)) * (i + 1) for i in range(4)]
    pyramid = FeaturePyramid(5)
    variables = pyramid.init(jax.random.key(0), stages)
    # Every lateral convolution sums its 3 channels, and every output is its own centre.
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    for i in range(1, 5):
        params[f"lateral{i}"]["conv"]["kernel"] += 1
        params[f"output{i}"]["conv"]["kernel"] = (
            params[f"output{i}"]["conv"]["kernel"].at[1, 1].set(jnp.eye(5))
        )
    levels = pyramid.apply({"params": params}, stages)
    assert [x.shape for x in levels] == [(1, *size, 5) for size in SIZES]
    # 3 * 4 at the top, and 3 times the stage's value more on each level below.
    for level, value in zip(levels, (30, 27, 21, 12, 12), strict=True):
        np.testing.assert_array_equal(level, np.full(level.shape, value))


SIZES = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_the_last_level_is_every_second_position_of_the_one_before():
    stages = [jax.random.normal(jax.random.key(i), (1, *SIZES[i], 3)) for i in range(4)]
    pyramid = FeaturePyramid(5)
    levels = pyramid.apply(pyramid.init(jax.random.key(0), stages), stages)
    np.testing.assert_array_equal(levels[4], levels[3][:, ::2, ::2])


def test_boxes_of_the_size_of_imagenets_images_are_on_p4():
    sides = jnp.asarray([1.0, 111, 112, 223, 224, 447, 448, 895, 896, 5000])
    boxes = jnp.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    np.testing.assert_array_equal(levels_of(boxes), [0, 0, 1, 1, 2, 2, 3, 3, 3, 3])
    assert levels_of(jnp.zeros(4)) == 0


def test_a_region_is_pooled_from_the_level_of_its_size():
    levels = [jnp.full((1, 256 >> i, 256 >> i, 1), i + 2.0) for i in range(5)]
    boxes = jnp.asarray([[[8, 8, 40, 40], [8, 8, 288, 288], [8, 8, 508, 508]]], jnp.float32)
    np.testing.assert_allclose(pool_regions(levels, boxes)[0, :, 3, 3, 0], [2, 4, 5])
