import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.layers.cbam import CBAM


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def equations(x, w1, w2, kernel, bias):
    """Equations 2 and 3 of arXiv:1807.06521 for one map [h, w, c], written with loops."""
    height, width, _ = x.shape

    def f(z):
        return np.maximum(z @ w1, 0) @ w2

    gate = sigmoid(f(x.mean((0, 1))) + f(x.max((0, 1))))
    v = gate * x
    pooled = np.pad(np.stack([v.mean(-1), v.max(-1)], -1), ((1, 1), (1, 1), (0, 0)))
    spatial = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            spatial[i, j] = sigmoid((pooled[i : i + 3, j : j + 3] * kernel).sum() + bias)
    return v * spatial[..., None], gate, spatial


def test_equals_the_papers_equations():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 8))
    block = CBAM(reduction=4, kernel_size=3)
    params = block.init(jax.random.key(1), x)["params"]
    params["spatial_conv"]["bias"] += 0.5
    y, sown = block.apply({"params": params}, x, mutable="intermediates")
    w1, w2 = params["reduce"]["kernel"], params["expand"]["kernel"]
    assert w1.shape == (8, 2)
    conv = params["spatial_conv"]
    for i, image in enumerate(np.asarray(x)):
        expected, gate, spatial = equations(image, w1, w2, conv["kernel"][..., 0], conv["bias"][0])
        np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=1e-6)
        sown_here = sown["intermediates"]
        np.testing.assert_allclose(sown_here["excitation"][0][i], gate, rtol=1e-5)
        np.testing.assert_allclose(sown_here["spatial_excitation"][0][i], spatial, rtol=1e-5)


def test_a_batch_norm_replaces_the_bias_of_the_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 8))
    block = CBAM(norm=functools.partial(nn.BatchNorm, use_running_average=False))
    variables = block.init(jax.random.key(1), x)
    assert set(variables["params"]["spatial_conv"]) == {"kernel"}
    assert variables["params"]["spatial_bn"]["scale"].shape == (1,)
    _, updated = block.apply(variables, 3 * x, mutable="batch_stats")
    before = variables["batch_stats"]["spatial_bn"]["var"]
    assert not jnp.allclose(updated["batch_stats"]["spatial_bn"]["var"], before)


def test_an_even_kernel_is_refused():
    with pytest.raises(UserError, match="kernel_size must be odd"):
        CBAM(kernel_size=6)
