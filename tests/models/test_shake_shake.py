import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_flax import create_model
from se_flax.models.shake_shake import ShakeUnit, shake


def test_the_gradient_has_another_factor_than_the_sum():
    a, b, ct = jax.random.normal(jax.random.key(0), (3, 2, 3, 3, 4))
    alpha, beta = jnp.array([[0.1, 0.9], [0.3, 0.6]])[:, :, None, None, None]
    total, pullback = jax.vjp(lambda a, b: shake(a, b, alpha, beta), a, b)
    np.testing.assert_allclose(total, alpha * a + (1 - alpha) * b, rtol=1e-6)
    for gradient, expected in zip(pullback(ct), (beta * ct, (1 - beta) * ct), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_has_the_published_number_of_parameters():
    # Gastaldi, table 1: 26.2 million for 26 2x96d.
    model = create_model("shake_shake26_2x96d_cifar", 10)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert round(sum(x.size for x in jax.tree.leaves(params["params"])) / 1e6, 1) == 26.2


def test_only_training_is_random_and_each_image_has_its_own_factor():
    conv = functools.partial(nn.Conv, use_bias=False)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    unit = ShakeUnit(4, 1, conv, norm)
    x = jnp.tile(jax.random.normal(jax.random.key(0), (1, 6, 6, 4)), (2, 1, 1, 1))
    variables = unit.init(jax.random.key(1), x, train=False)
    output, state = unit.apply(variables, x, train=False, capture_intermediates=True)
    branches = [state["intermediates"][f"branch{i}_bn2"]["__call__"][0] for i in (1, 2)]
    np.testing.assert_allclose(output, x + sum(branches) / 2, rtol=1e-5, atol=1e-6)
    random = unit.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)})
    assert not np.allclose(random[0], random[1], atol=1e-3)
    difference = branches[0] - branches[1]
    alpha = jnp.sum((random - x - branches[1]) * difference, (1, 2, 3)) / jnp.sum(
        difference**2, (1, 2, 3)
    )
    assert np.all((alpha >= 0) & (alpha <= 1))


def test_the_shortcut_sees_every_second_pixel_and_its_neighbour():
    conv = functools.partial(nn.Conv, use_bias=False)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    unit = ShakeUnit(4, 2, conv, norm)
    x = jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    variables = unit.init(jax.random.key(1), x, train=False)
    _, state = unit.apply(variables, x, train=False, capture_intermediates=True)
    pixels = np.pad(np.maximum(x, 0), ((0, 0), (0, 1), (0, 1), (0, 0)))
    for i, offset in ((1, 0), (2, 1)):
        kernel = variables["params"][f"shortcut_conv{i}"]["kernel"][0, 0]
        seen = pixels[:, offset : offset + 5 : 2, offset : offset + 6 : 2]
        output = state["intermediates"][f"shortcut_conv{i}"]["__call__"][0]
        np.testing.assert_allclose(output, seen @ kernel, rtol=1e-4, atol=1e-6)
