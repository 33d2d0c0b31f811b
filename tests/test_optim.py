import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.config import default_config
from se_flax.optim import learning_rate_schedule, make_optimizer


def schedule(name, **fields):
    config = default_config()
    config.num_epochs = 10
    config.optimizer.learning_rate = 0.1
    config.schedule.name = name
    config.schedule.update(fields)
    return learning_rate_schedule(config, steps_per_epoch=20)


def test_warmup_rises_linearly_to_the_peak():
    rate = schedule("step", warmup=0.2, warmup_start=0.1)
    np.testing.assert_allclose([rate(0), rate(20), rate(40)], [0.01, 0.055, 0.1], rtol=1e-5)


def test_step_schedule_drops_at_its_fractions_of_the_run():
    rate = schedule("step", warmup=0.1, drop_at=(0.5, 0.75), drop_factor=0.1)
    steps = [20, 99, 100, 149, 150, 199]
    np.testing.assert_allclose(
        [rate(step) for step in steps], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5
    )


def test_cosine_schedule_is_half_a_cosine_from_the_end_of_warmup():
    rate = schedule("cosine", warmup=0.1)
    for step in (20, 50, 110, 199):
        expected = 0.05 * (1 + np.cos(np.pi * (step - 20) / 180))
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5, atol=1e-8)


def test_constant_schedule_without_warmup_is_constant():
    rate = schedule("constant", warmup=0.0)
    np.testing.assert_allclose([rate(0), rate(199)], 0.1, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_the_textbook_update(nesterov):
    config = default_config()
    options = config.optimizer
    options.momentum, options.nesterov, options.weight_decay = 0.9, nesterov, 0.01
    optimizer = make_optimizer(config, lambda step: 0.1)
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
    state = optimizer.init(params)

    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in expected.items()}
    for step in range(4):
        gradients = {"kernel": jnp.array([[0.3, step]]), "bias": jnp.array([1.0 - step])}
        updates, state = optimizer.update(gradients, state, params)
        params = {name: params[name] + updates[name] for name in params}
        for name in expected:
            decay = 0.01 if name == "kernel" else 0.0
            gradient = np.asarray(gradients[name], np.float64) + decay * expected[name]
            velocity[name] = 0.9 * velocity[name] + gradient
            direction = gradient + 0.9 * velocity[name] if nesterov else velocity[name]
            expected[name] = expected[name] - 0.1 * direction
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def first_update(gradients, params, **options):
    config = default_config()
    config.optimizer.momentum = 0.0
    config.optimizer.update(options)
    optimizer = make_optimizer(config, lambda step: 1.0)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_norm_and_bias_decay_only_if_asked():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    still = {"kernel": jnp.zeros((2, 2)), "scale": jnp.zeros(2)}
    update = first_update(still, params, weight_decay=0.5)
    assert float(update["scale"][0]) == 0
    assert float(update["kernel"][0, 0]) == -0.5
    update = first_update(still, params, weight_decay=0.5, decay_norm_and_bias=True)
    assert float(update["scale"][0]) == -0.5


def test_gradients_are_clipped_by_their_global_norm():
    params = {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    gradients = {"kernel": jnp.full((1, 1), 3.0), "bias": jnp.full(1, 4.0)}
    update = first_update(gradients, params, weight_decay=0.0, clip_norm=1.0)
    np.testing.assert_allclose([update["kernel"][0, 0], update["bias"][0]], [-0.6, -0.8], rtol=1e-5)
