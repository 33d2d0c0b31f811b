import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from se_flax.config import build_model
from se_flax.data import Dataset, Split
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.metrics import Metrics, total
from se_flax.optim import make_optimizer
from se_flax.parallel import AXIS, pmap_eval, pmap_train, replicate
from se_flax.state import TrainState, create_state
from se_flax.step import make_eval_step, make_train_step


def means(logits, labels, mask=None):
    mask = jnp.ones(len(labels), bool) if mask is None else jnp.asarray(mask)
    return Metrics.of(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(len(labels)), mask).means()


def test_top_k_counts_labels_among_the_k_largest_logits():
    logits = np.random.default_rng(0).normal(size=(200, 10))
    labels = np.random.default_rng(1).integers(0, 10, 200)
    ranks = np.array(
        [list(np.argsort(-row)).index(y) for row, y in zip(logits, labels, strict=True)]
    )
    result = means(logits, labels)
    for k in (1, 3, 5):
        assert result[f"top{k}"] == pytest.approx(100 * np.mean(ranks < k))


def test_a_network_with_constant_output_is_at_chance():
    assert means(np.zeros((100, 10)), np.arange(100) % 10)["top1"] == pytest.approx(10)
    assert means(np.full((100, 10), np.nan), np.arange(100) % 10)["top1"] == pytest.approx(10)


def test_masked_images_do_not_count():
    logits = np.eye(4)
    assert means(logits, [0, 1, 0, 0], [True, True, True, False])["top1"] == pytest.approx(200 / 3)


def test_fewer_than_five_classes_have_a_top_5():
    assert means(np.eye(2), [1, 0]) == {"loss": 1.0, "top1": 0.0, "top3": 100.0, "top5": 100.0}


class LinearModel(nn.Module):
    """Logits are the image's pixels; nothing to learn."""

    def __call__(self, images, train):
        return images.reshape(len(images), -1)


@pytest.mark.parametrize("batch_size", [1, 10, 37, 500])
def test_evaluation_is_over_exactly_the_images_of_the_split(batch_size):
    # 37 images are not a multiple of 10; the expected loss and hits are computed without batches.
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (37, 2, 3, 1)).astype(np.uint8)
    labels = generator.integers(0, 6, 37).astype(np.int32)
    split = Split(images, labels)
    dataset = Dataset("noise", split, split, tuple("abcdef"), (0.0,), (1.0,), False)
    preprocessing, step = Preprocessing((0.0,), (1.0,)), make_eval_step(LinearModel())
    evaluate = pmap_eval(
        lambda variables, *inputs: step(variables, dataset.eval_batch(preprocessing, *inputs))
    )
    feed = dataset.eval_feed("test", batch_size)
    each = [evaluate({}, *inputs) for inputs in feed]
    assert len(each) == len(feed)
    result = total(each).means()

    logits = images.reshape(37, 6) / 255
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logits, axis=1, kind="stable")
    expected = {
        f"top{k}": 100 * np.mean((order[:, :k] == labels[:, None]).any(1)) for k in (1, 3, 5)
    }
    expected["loss"] = -np.mean(log_probabilities[np.arange(37), labels])
    assert result == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def parts(tiny_config, stripes):
    """Makes network, step, train function, state and inputs of a small run."""

    def make(**changes):
        tiny_config.update_from_flattened_dict(changes)
        model = build_model(tiny_config, stripes.num_classes)
        optimizer = make_optimizer(tiny_config.optimizer, lambda step: 0.05)
        smoothing, ema = tiny_config.label_smoothing, tiny_config.ema_decay
        step = make_train_step(model, optimizer, label_smoothing=smoothing, ema_decay=ema)
        preprocessing = Preprocessing.of(stripes, {"crop_padding": 1})

        def step_on_inputs(state, shared, own):
            batch = stripes.train_batch(preprocessing, 16, shared, own, state.seed, state.step)
            return step(state, batch)

        train = pmap_train(step_on_inputs)
        state = jax.jit(lambda: create_state(model, optimizer, (8, 8, 3), 0, ema > 0))()
        inputs = stripes.train_feed(16, seed=0, total_steps=10).inputs(0)
        return model, step, train, replicate(state), inputs

    return make


def test_several_steps_in_a_dispatch_are_the_same_as_one_after_another(parts):
    _, _, train, state, inputs = parts()
    together, sums = train(jax.tree.map(jnp.copy, state), *inputs, 5)
    apart_sums = []
    for _ in range(5):
        state, metrics = train(state, *inputs, 1)
        apart_sums.append(metrics)
    assert int(together.step) == int(state.step) == 5
    assert float(sums.count) == 80
    np.testing.assert_allclose(sums.loss, sum(m.loss for m in apart_sums), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_mixed_image_is_trained_on_both_labels_by_their_weights():
    model = WithAuxiliary()
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.standard_normal((4, 2, 2, 3), np.float32))
    labels, mix_labels = jnp.array([0, 1, 2, 3]), jnp.array([1, 0, 3, 2])
    lam = jnp.array([0.75, 0.75, 0.5, 0.5])
    params = model.init(jax.random.key(0), images, train=True)["params"]
    optimizer = optax.sgd(1.0)
    state = TrainState(jnp.int32(0), jnp.uint32(0), params, {}, optimizer.init(params))
    batch = Batch(images, labels, jnp.ones(4, bool), mix_labels, lam)
    _, metrics = run_step(make_train_step(model, optimizer), state, batch)
    layer = params["classifier"]
    logits = images.reshape(4, -1) @ layer["kernel"] + layer["bias"]
    own, other = (
        optax.softmax_cross_entropy_with_integer_labels(logits, x) for x in (labels, mix_labels)
    )
    expected = jnp.mean(lam * own + (1 - lam) * other)
    assert metrics.means()["loss"] == pytest.approx(float(expected), rel=1e-5)


class WithAuxiliary(nn.Module):
    """A dense layer, and another whose logits are auxiliary."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        if train:
            self.sow("intermediates", "auxiliary_logits", nn.Dense(4, name="auxiliary")(x))
        return nn.Dense(4, name="classifier")(x)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_auxiliary_logits_are_trained_by_their_weight_in_the_loss(weight):
    model = WithAuxiliary()
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.standard_normal((8, 2, 2, 3), np.float32))
    labels = jnp.arange(8) % 4
    params = model.init(jax.random.key(0), images, train=True)["params"]
    optimizer = optax.sgd(1.0)
    state = TrainState(
        step=jnp.int32(0),
        seed=jnp.uint32(0),
        params=params,
        batch_stats={},
        opt_state=optimizer.init(params),
    )
    step = make_train_step(model, optimizer, auxiliary_weight=weight)
    new, metrics = run_step(step, state, Batch(images, labels, jnp.ones(8, bool)))

    def loss(layer):
        logits = images.reshape(8, -1) @ layer["kernel"] + layer["bias"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    for name, share in (("classifier", 1.0), ("auxiliary", weight)):
        gradient = jax.grad(loss)(params[name])
        expected = jax.tree.map(lambda p, g, s=share: p - s * g, params[name], gradient)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            new.params[name],
            expected,
        )
    assert metrics.means()["loss"] == pytest.approx(float(loss(params["classifier"])), rel=1e-5)


def run_step(step, state, batch):
    stacked = jax.tree.map(lambda x: x[None], batch)
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)(state, stacked)


def some_batch(n=16):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, 8, 8, 3)).astype(np.float32)
    return Batch(jnp.asarray(images), jnp.arange(n) % 4, jnp.ones(n, bool))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_with_smoothed_labels(parts, smoothing):
    model, step, _, state, _ = parts(label_smoothing=smoothing)
    batch = some_batch()
    _, metrics = run_step(step, state, batch)
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits, _ = apply(variables, batch.images)
    log_probabilities = np.asarray(jax.nn.log_softmax(logits), np.float64)
    targets = (1 - smoothing) * np.eye(4)[np.asarray(batch.labels)] + smoothing / 4
    expected = -np.mean(np.sum(targets * log_probabilities, axis=1))
    assert metrics.means()["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_step_is_a_gradient_step_on_the_mean_loss(parts):
    model, step, _, state, _ = parts(
        **{"optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0, "optimizer.nesterov": False}
    )
    batch = some_batch()

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(variables, batch.images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return losses.mean()

    gradients = jax.jit(jax.grad(loss_of))(state.params)
    after, _ = run_step(step, state, batch)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.05 * g, rtol=1e-4, atol=1e-6),
        after.params,
        state.params,
        gradients,
    )
    assert int(after.step) == 1


def test_the_moving_average_follows_parameters_and_statistics(parts):
    _, step, _, state, _ = parts(ema_decay=0.9)
    batch = some_batch()
    expected = jax.tree.map(np.asarray, state.ema)
    for n in range(3):
        state, _ = run_step(step, state, batch)
        decay = min(0.9, (1 + n) / (10 + n))
        current = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * np.asarray(new),
            expected,
            current,
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.ema, expected
    )
    assert state.variables is state.ema
