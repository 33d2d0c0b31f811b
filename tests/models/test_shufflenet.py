import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import create_model
from se_flax.models.shufflenet import shuffle_channels


def test_each_group_gets_a_channel_of_every_group():
    x = jnp.arange(6.0).reshape(1, 1, 1, 6)  # groups (0, 1), (2, 3) and (4, 5)
    np.testing.assert_array_equal(shuffle_channels(x, 3)[0, 0, 0], [0, 2, 4, 1, 3, 5])


# Millions of parameters in table 3 of the SE paper, which cuts off the second decimal.
@pytest.mark.parametrize(("name", "millions"), [("shufflenet", 1.8), ("se_shufflenet", 2.4)])
def test_has_the_se_papers_number_of_parameters(name, millions):
    model = create_model(name)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    count = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
    assert int(count / 1e5) / 10 == millions


def test_the_stages_are_those_of_table_1():
    model = create_model("shufflenet")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True), images
    )
    assert [x.shape[1:] for x in maps.values()] == [(28, 28, 240), (14, 14, 480), (7, 7, 960)]


def test_a_unit_that_halves_keeps_the_average_of_its_input():
    model = create_model("shufflenet", 10, stage_sizes=(1,), widths=(48,))
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = model.init(jax.random.key(1), x)
    maps, state = model.apply(variables, x, features=True, capture_intermediates=True)
    stem = jax.nn.relu(state["intermediates"]["stem_bn"]["__call__"][0])
    padded = np.pad(stem, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    pooled = np.max(
        [padded[:, i : i + 16 : 2, j : j + 16 : 2] for i in range(3) for j in range(3)], 0
    )
    padded = np.pad(pooled, ((0, 0), (1, 1), (1, 1), (0, 0)))
    mean = np.mean([padded[:, i : i + 8 : 2, j : j + 8 : 2] for i in range(3) for j in range(3)], 0)
    np.testing.assert_allclose(maps["stage1"][..., :24], mean, rtol=1e-4, atol=1e-6)
