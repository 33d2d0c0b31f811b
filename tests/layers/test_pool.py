import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.layers.pool import max_pool_2x2


def stock(x):
    return nn.max_pool(x, (2, 2), (2, 2))


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 5, 7, 2), (3, 2, 2, 1)])
def test_pooling_and_its_gradient_are_those_of_flax_even_where_values_are_equal(shape):
    # Of few whole numbers, so that most windows hold their largest value more than once.
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), jnp.float32)
    np.testing.assert_array_equal(max_pool_2x2(x), stock(x))
    weights = jax.random.normal(jax.random.key(0), stock(x).shape)
    ours, theirs = (
        jax.grad(lambda x, f=f: jnp.sum(weights * f(x)))(x) for f in (max_pool_2x2, stock)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_a_window_with_a_nan_is_nan():
    x = jnp.zeros((1, 2, 8, 1)).at[0, [0, 0, 1, 1], [0, 3, 4, 7], 0].set(jnp.nan)
    assert np.isnan(max_pool_2x2(x)).all()


def test_a_gpu_gets_the_pooling_of_xla():
    x = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    text = str(jax.export.export(jax.jit(max_pool_2x2), platforms=["cuda"])(x).mlir_module())
    assert "reduce_window" in text
    assert "select" not in text
