import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import SqueezeExcite
from se_flax.errors import UserError
from se_flax.layers.gather_excite import GatherExcite

NORM = functools.partial(nn.BatchNorm, use_running_average=False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 3)])
def test_without_parameters_a_gate_is_the_mean_over_the_window_around(extent, size):
    x = np.random.default_rng(0).standard_normal((*size, 3)).astype(np.float32)
    y, sown = GatherExcite(extent=extent).apply({}, jnp.asarray(x)[None], mutable="intermediates")
    height, width = size
    rows, columns = -(-height // extent), -(-width // extent)
    gate = np.empty((rows, columns, 3))
    for i in range(rows):
        for j in range(columns):
            top, left = i * extent - extent + 1, j * extent - extent + 1
            window = x[max(top, 0) : top + 2 * extent - 1, max(left, 0) : left + 2 * extent - 1]
            gate[i, j] = sigmoid(window.mean((0, 1)))
    np.testing.assert_allclose(sown["intermediates"]["excitation"][0][0], gate, rtol=1e-5)
    for i in range(height):
        for j in range(width):
            nearest = gate[i * rows // height, j * columns // width]
            np.testing.assert_allclose(y[0, i, j], nearest * x[i, j], rtol=1e-5, atol=1e-6)


def test_without_parameters_over_the_whole_map_a_gate_is_the_sigmoid_of_the_mean():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    block = GatherExcite()
    assert block.init(jax.random.key(0), x).get("params", {}) == {}
    y, sown = block.apply({}, x, mutable="intermediates")
    gate = sigmoid(np.mean(x, (1, 2)))
    np.testing.assert_allclose(sown["intermediates"]["excitation"][0], gate, rtol=1e-5)
    np.testing.assert_allclose(y, x * gate[:, None, None], rtol=1e-5, atol=1e-6)


def test_with_the_mean_as_its_convolution_theta_plus_is_se():
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, 5, 4, 8)))  # z stays positive
    se = SqueezeExcite(reduction=4)
    params = se.init(jax.random.key(1), x)["params"]
    mean = {"kernel": jnp.full((5, 4, 1, 8), 1 / 20), "bias": jnp.zeros(8)}
    block = GatherExcite(form="theta+", reduction=4)
    y = block.apply({"params": {**params, "gather_conv1": mean}}, x)
    np.testing.assert_allclose(y, se.apply({"params": params}, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("extent", "convolutions"), [(0, 1), (2, 1), (4, 2), (8, 3)])
def test_each_halving_is_a_depthwise_convolution_with_batch_norm(extent, convolutions):
    x = jnp.ones((2, 8, 8, 4))
    for norm, kinds in ((NORM, {"conv", "bn"}), (None, {"conv"})):
        block = GatherExcite(form="theta", extent=extent, norm=norm)
        params = block.init(jax.random.key(0), x)["params"]
        numbers = range(1, convolutions + 1)
        assert params.keys() == {f"gather_{kind}{i}" for kind in kinds for i in numbers}
        assert ("bias" in params["gather_conv1"]) == (norm is None)
        kernel = (8, 8, 1, 4) if extent == 0 else (3, 3, 1, 4)
        assert params["gather_conv1"]["kernel"].shape == kernel


def test_a_kernel_for_the_whole_map_refuses_maps_of_another_size():
    block = GatherExcite(form="theta")
    variables = block.init(jax.random.key(0), jnp.ones((1, 8, 8, 4)))
    with pytest.raises(UserError, match="for maps of 8 x 8, not 9 x 7; pass images of the size"):
        block.apply(variables, jnp.ones((1, 9, 7, 4)))


@pytest.mark.parametrize("extent", [-2, 1, 3, 6, 2.0])
def test_an_extent_that_is_no_power_of_2_is_refused(extent, wrong_types):
    with pytest.raises(UserError, match="extent must be 0, for the whole map, or 2, 4, 8"):
        GatherExcite(extent=extent)
    with pytest.raises(UserError, match=r'no form "theta_plus".*known are theta-, theta, theta\+'):
        GatherExcite(form="theta_plus")
