import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.layers.cpu import conv_general_dilated, max_pool, max_pool_2x2, residual_sum

NHWC = ("NHWC", "HWIO", "NHWC")


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def both(images, kernel, strides, padding, groups, **options):
    """Returns ours and JAX's convolution, as functions of images and kernel, and a direction."""
    options = {"feature_group_count": groups, "dimension_numbers": NHWC, **options}
    ours, jaxs = (
        functools.partial(convolution, window_strides=strides, padding=padding, **options)
        for convolution in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    shape = jax.eval_shape(jaxs, images, kernel).shape
    return ours, jaxs, jax.random.normal(jax.random.key(2), shape)


def value_and_gradients(convolution, images, kernel, direction):
    value, pullback = jax.vjp(convolution, images, kernel)
    return value, *pullback(direction)


def assert_equal_in_float64(ours, jaxs, operands, tolerance, by_size=False):
    """Compares results and gradients; `by_size` multiplies the tolerance by their sizes."""
    with jax.enable_x64(True):
        operands = jax.tree.map(np.float64, operands)
        results = [
            jax.jit(value_and_gradients, static_argnums=0)(convolution, *operands)
            for convolution in (ours, jaxs)
        ]
    for our_result, expected in zip(*results, strict=True):
        atol = tolerance * (np.size(expected) if by_size else 1)
        np.testing.assert_allclose(our_result, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [3, 35])
@pytest.mark.parametrize("strides", [(2, 2), *slow((1, 1), (1, 2))])
@pytest.mark.parametrize(
    ("kernel", "groups", "padding"),
    [
        ((3, 3, 6, 4), 1, "SAME"),
        ((3, 3, 6, 4), 1, "VALID"),
        ((5, 3, 6, 4), 1, [(2, 1), (0, 3)]),
        ((1, 1, 6, 4), 1, "SAME"),
        ((1, 1, 6, 4), 1, [(1, 1), (0, 0)]),
        ((3, 3, 1, 6), 6, "SAME"),
        ((5, 5, 1, 6), 6, [(2, 2), (2, 2)]),
        ((3, 3, 1, 12), 6, "SAME"),
        ((3, 3, 3, 4), 2, "SAME"),
    ],
)
def test_result_and_gradients_equal_those_of_jax(batch, strides, kernel, groups, padding):
    images = jax.random.normal(jax.random.key(0), (batch, 9, 6, 6))
    kernel = jax.random.normal(jax.random.key(1), kernel)
    ours, jaxs, direction = both(images, kernel, strides, padding, groups)
    operands = images, kernel, direction
    assert_equal_in_float64(ours, jaxs, operands, 1e-12, by_size=True)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), *slow((1, 2))])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), *slow((5, 3), (7, 7))])
@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((1, 1), "SAME"),
        ((2, 2), "SAME"),
        ((2, 5), "SAME"),
        ((4, 3), [(3, 3), (3, 3)]),
        ((1, 3), [(4, 2), (1, 5)]),
        ((5, 5), [(1, 3), (-1, 4)]),
        ((7, 7), "VALID"),
        ((3, 1), [(9, 0), (0, 8)]),
    ],
)
def test_convolutions_of_small_images_are_those_of_jax(size, padding, kernel, strides):
    images = jax.random.normal(jax.random.key(0), (3, *size, 5))
    kernel = jax.random.normal(jax.random.key(1), (*kernel, 5, 4))
    ours, jaxs, direction = both(images, kernel, strides, padding, 1)
    assert_equal_in_float64(ours, jaxs, (images, kernel, direction), 1e-12)


@pytest.mark.parametrize(("batch", "strides"), [(1, (1, 1)), (2, (2, 1))])
def test_gradients_of_few_tall_images_are_those_of_jax(batch, strides):
    images = jax.random.normal(jax.random.key(0), (batch, 37, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (5, 3, 3, 40))
    ours, jaxs, direction = both(images, kernel, strides, [(2, 1), (1, 1)], 1)
    assert_equal_in_float64(ours, jaxs, (images, kernel, direction), 1e-11)


@pytest.mark.parametrize(("size", "strides"), [(1, 1), (2, 1), (4, 2), (8, 1)])
def test_bfloat16_is_as_exact_as_in_the_convolution_of_jax(size, strides):
    keys = map(jax.random.key, range(2))
    images, kernel = map(jax.random.normal, keys, [(4, size, size, 64), (3, 3, 64, 32)])
    ours, jaxs, direction = both(images, kernel, (strides, strides), "SAME", 1)
    halves = [x.astype(jnp.bfloat16) for x in (images, kernel, direction)]
    exact = value_and_gradients(jaxs, *[x.astype(jnp.float32) for x in halves])
    for result, expected in zip(value_and_gradients(ours, *halves), exact, strict=True):
        assert result.dtype == jnp.bfloat16
        # One rounding to eight bits, of sums in float32.
        np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "strides"), [(2, 3, 1), (1, 3, 1), (4, 3, 2), (6, 7, 1), (1, 1, 1)]
)
def test_xla_is_left_no_convolution_with_a_kernel_larger_than_its_images(size, kernel, strides):
    # It would compute those with plain loops, a hundred times slower.
    images, kernel = jnp.ones((2, size, size, 8)), jnp.ones((kernel, kernel, 8, 8))
    ours, _, direction = both(images, kernel, (strides, strides), "SAME", 1)
    program = jax.jit(functools.partial(value_and_gradients, ours))
    text = program.lower(images, kernel, direction).compile().as_text()
    assert not re.search(r" convolution\(", text)


@pytest.mark.parametrize("kernel", [3, 4, 7])
def test_the_gradients_of_a_strided_convolution_multiply_no_inserted_zeros(kernel):
    # XLA would spread out the direction with zeros, and take up to twenty times as long.
    images, kernel = jnp.ones((2, 16, 15, 8)), jnp.ones((kernel, kernel, 8, 8))
    ours, _, direction = both(images, kernel, (2, 2), "SAME", 1)
    program = jax.jit(functools.partial(value_and_gradients, ours))
    assert "lhs_dilate" not in program.lower(images, kernel, direction).compile().as_text()


def test_dilated_convolutions_and_those_not_in_two_dimensions_are_left_to_jax():
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    ours, jaxs, _ = both(images, kernel, (1, 1), "SAME", 1, rhs_dilation=(2, 2))
    np.testing.assert_array_equal(ours(images, kernel), jaxs(images, kernel))
    ours, jaxs, _ = both(
        images[0], kernel[0], (1,), "SAME", 1, dimension_numbers=("NHC", "HIO", "NHC")
    )
    np.testing.assert_array_equal(ours(images[0], kernel[0]), jaxs(images[0], kernel[0]))


KINDS = pytest.mark.parametrize(
    ("kernel", "groups"),
    [((1, 1, 8, 8), 1), ((3, 3, 1, 8), 8), ((3, 3, 8, 8), 1), ((7, 7, 8, 8), 1)],
)


@KINDS
def test_it_can_be_differentiated_twice_and_mapped(kernel, groups):
    with jax.enable_x64(True):
        images = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 8))
        kernel = jax.random.normal(jax.random.key(1), (3, *kernel))
        tangent = jax.random.normal(jax.random.key(2), kernel.shape)
        ours, jaxs, _ = both(images[0], kernel[0], (1, 1), "SAME", groups)

        def second_derivative(convolution, images, kernel, tangent):
            gradient = jax.grad(lambda kernel: jnp.sum(jnp.sin(convolution(images, kernel))))
            return jax.jvp(gradient, (kernel,), (tangent,))

        results = [
            jax.jit(jax.vmap(functools.partial(second_derivative, convolution)))(
                images, kernel, tangent
            )
            for convolution in (ours, jaxs)
        ]
    for our_result, expected in zip(*results, strict=True):
        np.testing.assert_allclose(our_result, expected, rtol=0, atol=1e-10)


@KINDS
def test_other_platforms_are_given_the_convolution_of_xla(kernel, groups):
    images, kernel = jnp.ones((2, 8, 8, 8)), jnp.ones(kernel)
    modules = [
        jax.export.export(jax.jit(convolution), platforms=["cuda"])(images, kernel).mlir_module()
        for convolution in both(images, kernel, (1, 1), "SAME", groups)[:2]
    ]
    ours, jaxs = (
        re.findall(r"stablehlo\.(?:convolution.*(?= loc)|dot_general|multiply)", module)
        for module in modules
    )
    assert ours == jaxs


@pytest.mark.parametrize("shape", [(1, 5, 7, 2), *slow((2, 8, 6, 3), (3, 3, 3, 1))])
@pytest.mark.parametrize(
    "window",
    [
        {"window_shape": (2, 2), "strides": (2, 2)},
        {"window_shape": (3, 3), "strides": (2, 2)},
        {"window_shape": (3, 3), "strides": (2, 2), "padding": [(1, 1), (1, 1)]},
        {"window_shape": (3, 3), "strides": (2, 2), "padding": [(0, 1), (0, 0)]},
        {"window_shape": (3, 3), "strides": (2, 2), "padding": "SAME"},
        {"window_shape": (3, 3), "padding": ((1, 1), (1, 1))},
        {"window_shape": (2, 3), "strides": (1, 2)},
    ],
)
def test_pooling_and_its_gradient_are_those_of_flax_even_where_values_are_equal(shape, window):
    # Few distinct values, so that most windows hold their largest value more than once. The
    # weights of windows are whole numbers, whose sums are exact in any order.
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.integers(-2, 1, shape), jnp.float32)
    ours, flaxs = (functools.partial(pool, **window) for pool in (max_pool, nn.max_pool))
    expected = flaxs(x)
    np.testing.assert_array_equal(ours(x), expected)
    weights = generator.integers(1, 100, expected.shape)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(weights * f(x)))(x) for f in (ours, flaxs)]
    np.testing.assert_array_equal(*gradients)


def test_a_window_with_a_nan_is_nan():
    x = jnp.zeros((1, 2, 8, 1)).at[0, [0, 0, 1, 1], [0, 3, 4, 7], 0].set(jnp.nan)
    assert np.isnan(max_pool_2x2(x)).all()


def test_a_gpu_gets_the_pooling_of_xla():
    x = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    text = str(jax.export.export(jax.jit(max_pool_2x2), platforms=["cuda"])(x).mlir_module())
    assert "reduce_window" in text
    assert "select" not in text


@pytest.mark.parametrize("activation", [None, jax.nn.relu])
def test_the_residual_sum_and_its_derivatives_are_those_of_the_formula(activation):
    def formula(shortcut, branch):
        total = shortcut + branch
        return total if activation is None else activation(total)

    ours = functools.partial(residual_sum, activation=activation)
    operands = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 5))
    tangents = jax.random.normal(jax.random.key(1), operands.shape)

    def results(add):
        def loss(operands):
            return jnp.sum(jnp.sin(add(*operands)))

        gradient = jax.vmap(jax.grad(loss), in_axes=1)
        return add(*operands), *jax.jvp(gradient, (operands,), (tangents,))

    for our_result, expected in zip(*map(results, (ours, formula)), strict=True):
        np.testing.assert_allclose(our_result, expected, rtol=1e-6, atol=1e-6)


def test_without_gradients_the_sum_joins_the_scaling_of_its_branch_and_is_stored_once():
    x = jnp.ones((4, 8, 8, 16))

    def chain(x, gate):
        for _ in range(4):
            x = residual_sum(x, gate * jnp.sin(x), jax.nn.relu)
        return x

    compiled = jax.jit(chain).lower(x, jnp.ones(16)).compile()
    # Each sum reads one map and writes another.
    assert compiled.cost_analysis()["bytes accessed"] == pytest.approx(4 * 2 * x.nbytes, rel=0.01)
