import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.config import default_config
from se_flax.optim import (
    learning_rate_schedule,
    make_optimizer,
    notes_on_schedule,
    peak_learning_rate,
)


def schedule(name, **fields):
    config = default_config()
    config.num_epochs = 10
    config.optimizer.learning_rate = 0.1
    config.schedule.name = name
    config.schedule.update(fields)
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    return learning_rate_schedule(config.schedule, peak, config.num_epochs, steps_per_epoch=20)


def test_warmup_rises_linearly_to_the_peak():
    rate = schedule("step", warmup_epochs=2, warmup_factor=0.1)
    np.testing.assert_allclose([rate(0), rate(20), rate(40)], [0.01, 0.055, 0.1], rtol=1e-5)


def test_step_schedule_drops_at_its_milestones():
    rate = schedule("step", warmup_epochs=1, milestones=(5, 7.5), gamma=0.1)
    steps = [20, 99, 100, 149, 150, 199]
    np.testing.assert_allclose(
        [rate(step) for step in steps], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5
    )


def test_cosine_schedule_is_half_a_cosine_from_the_end_of_warmup():
    rate = schedule("cosine", warmup_epochs=1)
    for step in (20, 50, 110, 199):
        expected = 0.05 * (1 + np.cos(np.pi * (step - 20) / 180))
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5, atol=1e-8)


def test_constant_schedule_without_warmup_is_constant():
    rate = schedule("constant", warmup_epochs=0)
    np.testing.assert_allclose([rate(0), rate(199)], 0.1, rtol=1e-6)


def test_the_steps_of_an_exponential_schedule_count_from_the_start_of_the_run():
    # With 20 steps per epoch: a drop every 32 steps, and a warm-up over the first 40.
    rate = schedule(
        "exponential", warmup_epochs=2, warmup_factor=0.0, decay_rate=0.9, decay_epochs=1.6
    )
    steps = [0, 20, 39, 40, 63, 64, 95, 96, 199]
    expected = [0, 0.05, 0.0975, 0.09, 0.09, 0.081, 0.081, 0.0729, 0.1 * 0.9**6]
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-5, atol=1e-9)


def test_an_exponential_schedule_without_staircase_falls_smoothly():
    rate = schedule(
        "exponential", warmup_epochs=0, decay_rate=0.5, decay_epochs=2.0, staircase=False
    )
    for step in (0, 1, 40, 50, 199):
        np.testing.assert_allclose(rate(step), 0.1 * 0.5 ** (step / 40), rtol=1e-5)


@pytest.mark.parametrize(
    ("num_epochs", "notes"),
    [
        (200, []),
        (101, []),
        (100, ["the learning rate never drops"]),
        (1, ["the whole run is warm-up", "the learning rate never drops"]),
    ],
)
def test_a_run_too_short_for_its_schedule_gets_a_note(num_epochs, notes):
    found = notes_on_schedule(default_config().schedule, num_epochs)
    assert [note.partition(":")[0] for note in found] == notes


@pytest.mark.parametrize("name", ["step", "cosine", "exponential", "constant"])
def test_a_run_of_one_epoch_can_be_all_warm_up(name):
    config = default_config()
    config.schedule.name = name
    rate = learning_rate_schedule(config.schedule, 0.1, num_epochs=1, steps_per_epoch=10)
    np.testing.assert_allclose([rate(0), rate(9)], [0.01, 0.091], rtol=1e-5)


def test_the_learning_rate_scales_with_the_batch_size():
    config = default_config()
    config.optimizer.learning_rate = 0.6
    config.batch_size = 256
    assert peak_learning_rate(config.optimizer, config.batch_size) == 0.6
    config.optimizer.base_batch_size = 1024
    assert peak_learning_rate(config.optimizer, config.batch_size) == pytest.approx(0.15)
    config.schedule.name = "constant"
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    rate = learning_rate_schedule(config.schedule, peak, config.num_epochs, steps_per_epoch=20)
    np.testing.assert_allclose([rate(0), rate(100)], [0.015, 0.15], rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_the_textbook_update(nesterov):
    config = default_config()
    options = config.optimizer
    options.momentum, options.nesterov, options.weight_decay = 0.9, nesterov, 0.01
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
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
    optimizer = make_optimizer(config.optimizer, lambda step: 1.0)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_batch_norm_and_biases_decay_only_on_request():
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


def gradients_of_steps(steps=6):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(2, 3)) * 10.0 ** generator.integers(-3, 2) for _ in range(steps)]


def after_steps(rate=lambda step: 0.1, **options):
    """The kernel of ones after the steps, with gradients that differ widely in size."""
    config = default_config()
    config.optimizer.update({"weight_decay": 0.01, **options})
    optimizer = make_optimizer(config.optimizer, rate)
    params = {"kernel": jnp.ones((2, 3))}
    state = optimizer.init(params)
    for gradient in gradients_of_steps():
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
    return np.asarray(params["kernel"])


def test_rmsprop_is_tensorflows_as_efficientnet_uses_it():
    def rate(step):
        return 0.1 * 0.5**step

    kernel, square, velocity = np.ones((2, 3)), np.ones((2, 3)), 0.0
    for step, gradient in enumerate(gradients_of_steps()):
        gradient = gradient + 0.01 * kernel
        square = 0.9 * square + 0.1 * gradient**2
        velocity = 0.9 * velocity + rate(step) * gradient / np.sqrt(square + 1e-3)
        kernel = kernel - velocity
    np.testing.assert_allclose(after_steps(rate, name="rmsprop"), kernel, rtol=1e-5)


def test_pytorchs_rmsprop_starts_at_0_and_multiplies_its_velocity_by_the_rate():
    def rate(step):
        return 0.1 * 0.5**step

    kernel, square, velocity = np.ones((2, 3)), 0.0, 0.0
    for step, gradient in enumerate(gradients_of_steps()):
        gradient = gradient + 0.01 * kernel
        square = 0.9 * square + 0.1 * gradient**2
        velocity = 0.9 * velocity + gradient / (np.sqrt(square) + 0.0316)
        kernel = kernel - rate(step) * velocity
    ours = after_steps(rate, name="rmsprop_torch", decay=0.9, epsilon=0.0316)
    np.testing.assert_allclose(ours, kernel, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "rho", "epsilon"),
    [({}, 0.95, 1e-6), ({"decay": 0.9, "epsilon": 1e-4}, 0.9, 1e-4)],
)
def test_adadelta_is_zeilers(options, rho, epsilon):
    kernel, square, moved = np.ones((2, 3)), 0.0, 0.0
    for gradient in gradients_of_steps():
        gradient = gradient + 0.01 * kernel
        square = rho * square + (1 - rho) * gradient**2
        update = np.sqrt(moved + epsilon) / np.sqrt(square + epsilon) * gradient
        moved = rho * moved + (1 - rho) * update**2
        kernel = kernel - update
    ours = after_steps(lambda step: 1.0, name="adadelta", **options)
    np.testing.assert_allclose(ours, kernel, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weight_decay_goes_through_the_gradient_in_adam_and_not_in_adamw(name):
    kernel, mean, square = np.ones((2, 3)), 0.0, 0.0
    for step, gradient in enumerate(gradients_of_steps(), start=1):
        beside = 0.01 * kernel if name == "adamw" else 0.0
        gradient = gradient + 0.01 * kernel - beside
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        kernel = kernel - 0.1 * (mean / (1 - 0.9**step) / root + beside)
    np.testing.assert_allclose(after_steps(name=name), kernel, rtol=1e-5)


def lamb_steps(kernel, decay, adapts, rate=0.1):
    """Algorithm 2 of arXiv:1904.00962 in float64, with the identity for phi."""
    mean, square = 0.0, 0.0
    for step, gradient in enumerate(gradients_of_steps(), start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**step)) + 1e-6
        update = mean / (1 - 0.9**step) / root + decay * kernel
        norm = np.linalg.norm(kernel)
        ratio = norm / np.linalg.norm(update) if adapts and norm else 1.0
        kernel = kernel - rate * ratio * update
    return kernel


def test_lamb_scales_the_update_of_each_kernel_to_the_kernels_norm():
    expected = lamb_steps(np.ones((2, 3)), 0.01, adapts=True)
    np.testing.assert_allclose(after_steps(name="lamb"), expected, rtol=1e-5)


@pytest.mark.parametrize("decays", [False, True])
def test_lamb_scales_norms_and_biases_only_if_they_decay(decays):
    config = default_config()
    config.optimizer.update({"name": "lamb", "weight_decay": 0.01, "decay_norm_and_bias": decays})
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    params = {"scale": jnp.ones(6), "bias": jnp.zeros(6)}
    state = optimizer.init(params)
    for gradient in gradients_of_steps():
        gradients = {name: jnp.asarray(gradient.ravel()) for name in params}
        updates, state = optimizer.update(gradients, state, params)
        params = {name: params[name] + updates[name] for name in params}
    for name, start in (("scale", np.ones((2, 3))), ("bias", np.zeros((2, 3)))):
        expected = lamb_steps(start, 0.01 if decays else 0.0, adapts=decays)
        np.testing.assert_allclose(params[name], expected.ravel(), rtol=1e-4)


@pytest.mark.references
def test_lamb_takes_the_same_steps_as_timms_with_clipping_and_without_decay_of_biases():
    from tests.references.torch_models import torch

    lamb = importlib.import_module("timm.optim").Lamb
    kernel = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    bias = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    groups = [{"params": [kernel], "weight_decay": 0.02}, {"params": [bias], "weight_decay": 0.0}]
    theirs = lamb(groups, lr=0.005)
    config = default_config()
    config.optimizer.update({"name": "lamb", "weight_decay": 0.02, "clip_norm": 1.0})
    ours = make_optimizer(config.optimizer, lambda step: 0.005)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    state = ours.init(params)
    for gradient in gradients_of_steps(20):
        kernel.grad, bias.grad = torch.tensor(gradient), torch.tensor(gradient[1])
        theirs.step()
        gradients = {"kernel": jnp.asarray(gradient), "bias": jnp.asarray(gradient[1])}
        updates, state = ours.update(gradients, state, params)
        params = {name: params[name] + updates[name] for name in params}
    for name, expected in (("kernel", kernel), ("bias", bias)):
        np.testing.assert_allclose(params[name], expected.detach().numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.references
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "rmsprop_torch", "adadelta", "adam", "adamw"])
def test_optimisers_take_the_same_steps_as_torchs_and_timms(name):
    from tests.references.torch_models import torch  # also prepares the import of timm

    rmsprop_tf = importlib.import_module("timm.optim").RMSpropTF
    make = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True),
        "rmsprop": lambda p: rmsprop_tf(
            p, 0.1, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.01
        ),
        "rmsprop_torch": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=0.01),
        "adadelta": lambda p: torch.optim.Adadelta(p, 0.1, rho=0.95, eps=1e-6, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01),
    }[name]
    kernel = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    optimizer = make([kernel])
    for gradient in gradients_of_steps():
        kernel.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(after_steps(name=name), kernel.detach().numpy(), rtol=1e-5)
