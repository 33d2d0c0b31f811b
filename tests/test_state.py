import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import se_flax
from se_flax import rng
from se_flax.models.initial_values import initial_values
from se_flax.state import create_state

SMALL = {"se_cnn3": 32, "se_resnet20_cifar": 32}
LARGE = {"se_efficientnet_b0": 64, "se_bn_inception": 64, "se_resnext29_8x64d_cifar": 32}


@pytest.mark.parametrize(
    ("name", "size"),
    [*SMALL.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in LARGE.items())],
)
def test_initial_values_are_those_of_init_bit_for_bit(name, size):
    shape = (size, size, 3)
    model = se_flax.create_model(name, num_classes=5)
    state = create_state(model, optax.sgd(0.1), shape, np.uint32(3))
    key = rng.key(np.uint32(3), rng.Stream.INIT)
    expected = jax.jit(lambda: model.init(key, jnp.zeros((1, *shape)), train=False))()
    expected = {"batch_stats": {}} | dict(expected)
    found = {"params": state.params, "batch_stats": state.batch_stats}
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Table(nn.Module):
    """Two parameters of the same shape, whose initial values are arrays."""

    @nn.compact
    def __call__(self, images, train):
        for name, values in (("a", np.arange(3.0)), ("b", np.ones(3))):
            self.param(name, lambda key, values=values: jnp.asarray(values, jnp.float32))
        return images


def test_values_from_different_tables_are_not_taken_for_one_another():
    params = initial_values(Table(), jax.random.key(0), (8, 8, 3))["params"]
    np.testing.assert_array_equal(params["a"], [0, 1, 2])
    np.testing.assert_array_equal(params["b"], [1, 1, 1])


def test_parameters_drawn_alike_share_a_program_and_have_values_of_their_own(monkeypatch):
    programs = {}
    monkeypatch.setattr("se_flax.models.initial_values._PROGRAMS", programs)
    model = se_flax.create_model("se_resnet20_cifar", num_classes=5)
    params = initial_values(model, jax.random.key(0), (32, 32, 3))["params"]
    kernels = [params[f"stage1_unit{i}"]["conv2"]["kernel"] for i in (1, 2, 3)]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 3
    assert len(programs) < len(jax.tree.leaves(params)) / 3
