"""Losses and class weights, against their closed forms in NumPy."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from se_flax.class_weights import class_weights_of
from se_flax.config import check_config, default_config
from se_flax.data import Dataset, Split
from se_flax.data.folders import ImageFolder
from se_flax.data.preprocessing import Batch
from se_flax.data.streaming import StreamedDataset, Subset
from se_flax.errors import UserError
from se_flax.losses import Loss
from se_flax.parallel import AXIS
from se_flax.state import TrainState
from se_flax.step import make_eval_step, make_train_step
from tests.data.test_streaming import SMALL, Numbers

WEIGHTS = (0.5, 2.0, 1.25)
GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 2, (8, 3)).astype(np.float32)
LABELS = np.array([0, 0, 0, 2, 2, 1, 1, 0], np.int32)
SEVERAL = GENERATOR.integers(0, 2, (8, 3)).astype(np.uint8)
LAM = np.repeat(GENERATOR.uniform(size=4), 2).astype(np.float32)
SWAPPED = np.arange(8).reshape(-1, 2)[:, ::-1].reshape(-1)


class Pixels(nn.Module):
    """Logits are the pixels times a parameter, which is 1."""

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param("scale", nn.initializers.ones, (images.shape[-1],))
        return (images * scale).reshape(len(images), -1)


def batch_of(labels, mixed=False):
    images = jnp.asarray(LOGITS).reshape(8, 1, 1, 3)
    mixing = map(jnp.asarray, (labels[SWAPPED], LAM)) if mixed else (None, None)
    return Batch(images, jnp.asarray(labels), jnp.ones(8, bool), *mixing)


def trained(batch, devices=1, parts=1, **options):
    """Returns the loss that a step reports, and the gradient that it follows."""
    optimizer = optax.sgd(1.0)
    params = {"scale": jnp.ones(3)}
    state = TrainState(jnp.int32(0), jnp.uint32(0), params, {}, optimizer.init(params))
    step = make_train_step(Pixels(), optimizer, accumulate_steps=parts, **options)
    shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name=AXIS))
    new, metrics = jax.tree.map(lambda x: x[0], mapped(state, shares))
    return metrics.means()["loss"], params["scale"] - new.params["scale"]


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def binary(logits, targets):
    probabilities = 1 / (1 + np.exp(-logits))
    return -targets * np.log(probabilities) - (1 - targets) * np.log(1 - probabilities)


def wanted(labels, mixed):
    targets = labels.astype(float) if labels.ndim == 2 else np.eye(3)[labels]
    return LAM[:, None] * targets + (1 - LAM[:, None]) * targets[SWAPPED] if mixed else targets


def softmax_loss(logits, labels, mixed, smoothing, weights):
    targets = wanted(labels, mixed)
    of_images = targets @ weights  # before smoothing
    smoothed = (1 - smoothing) * targets + smoothing / 3
    return -np.sum(weights * smoothed * log_softmax(logits)) / np.sum(of_images)


def bce_loss(logits, labels, mixed, smoothing, weights):
    targets = wanted(labels, mixed)
    if labels.ndim == 2:
        each = binary(logits, (1 - smoothing) * targets + smoothing / 2)
        return np.sum(weights * each) / (8 * np.sum(weights))
    each = binary(logits, (1 - smoothing) * targets + smoothing / 3).mean(-1)
    return np.sum(targets @ weights * each) / np.sum(targets @ weights)


CASES = {
    "softmax": ("softmax", softmax_loss, LABELS),
    "bce": ("bce", bce_loss, LABELS),
    "bce of several classes": ("bce", bce_loss, SEVERAL),
}


OPTIONS = list(itertools.product(CASES, (False, True), (0.0, 0.2), ((), WEIGHTS)))


@pytest.fixture(scope="module")
def computed():
    """The mean loss of each case, and its gradient by a factor of each logit."""

    def compute(logits):
        return [jax.value_and_grad(functools.partial(mean_loss, each))(logits) for each in OPTIONS]

    def mean_loss(option, logits):
        case, mixed, smoothing, weights = option
        name, _, labels = CASES[case]
        loss = Loss(name, smoothing, weights)
        batch = loss.weighted(batch_of(labels, mixed))
        return jnp.mean(loss.of(logits, loss.targets(batch, 3), batch))

    results = jax.jit(jax.vmap(compute, axis_name=AXIS))(LOGITS[None])
    return dict(zip(OPTIONS, jax.tree.map(lambda x: np.asarray(x[0]), results), strict=True))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_loss_and_its_gradient_are_those_of_its_formula(option, computed):
    case, mixed, smoothing, weights = option
    _, formula, labels = CASES[case]
    weights = np.array(weights or np.ones(3))

    def expected(logits):
        return formula(logits, labels, mixed, smoothing, weights)

    loss, gradient = computed[option]
    assert loss == pytest.approx(expected(np.float64(LOGITS)), rel=1e-5)
    for i, k in np.ndindex(8, 3):
        step = np.zeros((8, 3))
        step[i, k] = 1e-5
        slope = (expected(LOGITS + step) - expected(LOGITS - step)) / 2e-5
        assert gradient[i, k] == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one class", "several classes"])
def test_a_class_with_a_larger_share_than_the_threshold_is_all_there(labels):
    loss = Loss("bce", target_threshold=0.4)
    targets = loss.targets(batch_of(labels, mixed=True), 3)
    shares = wanted(labels, mixed=True)
    assert 0 < np.sum((shares > 0) & (shares < 0.4)) < np.sum(shares > 0)
    np.testing.assert_array_equal(targets, shares > 0.4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("devices", "parts"),
    [
        (2, 2),
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(1, 4, marks=pytest.mark.slow),
    ],
)
def test_the_weighted_mean_is_over_all_devices_and_parts(case, devices, parts):
    # The images of a device have other weights than those of the next one.
    name, formula, labels = CASES[case]
    options = {"loss": name, "class_weights": WEIGHTS, "label_smoothing": 0.1}
    loss, gradient = trained(batch_of(labels, mixed=True), devices, parts, **options)

    def expected(scale):
        return formula(np.float64(LOGITS) * scale, labels, True, 0.1, np.array(WEIGHTS))

    assert loss == pytest.approx(expected(np.ones(3)), rel=1e-5)
    steps = 1e-5 * np.eye(3)
    slopes = [(expected(1 + step) - expected(1 - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


def test_an_evaluation_reports_the_loss_without_weights_and_smoothing():
    def evaluate(variables, shares):
        return [
            make_eval_step(Pixels(), name)(variables, batch)
            for (name, _, _), batch in zip(CASES.values(), shares, strict=True)
        ]

    batches = [batch_of(labels) for _, _, labels in CASES.values()]
    shares = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batches)
    mapped = jax.jit(jax.vmap(evaluate, in_axes=(None, 0), axis_name=AXIS))
    results = mapped({"params": {"scale": jnp.ones(3)}}, shares)
    for metrics, (_, formula, labels) in zip(results, CASES.values(), strict=True):
        expected = formula(np.float64(LOGITS), labels, False, 0.0, np.ones(3))
        means = jax.tree.map(lambda x: x[0], metrics).means()
        assert means["loss"] == pytest.approx(expected, rel=1e-5)


def config_with(**fields):
    config = default_config()
    config.update_from_flattened_dict(fields)
    return config


def dataset_with(labels, names="abc"):
    split = Split(np.zeros((len(labels), 4, 4, 1), np.uint8), labels)
    return Dataset("images", split, split, tuple(names), (0.5,), (0.5,), False)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    config = config_with(class_weights="balanced")
    assert class_weights_of(config, dataset_with(labels)) == pytest.approx(tuple(expected))
    held_out = dataset_with(labels).hold_out(0.25)
    counts = np.bincount(held_out.train.labels, minlength=3)
    assert class_weights_of(config, held_out) == pytest.approx(tuple(6 / (3 * counts)))


def test_streamed_images_and_images_of_several_classes_are_balanced_too(tmp_path):
    config = config_with(class_weights="balanced")
    folder = ImageFolder(tmp_path, ("a", "b"), (tmp_path,) * 4, (0, 1, 1, 1))
    streamed = StreamedDataset(
        "x", Subset(folder, np.array([0, 1, 3])), folder, SMALL, SMALL, (0.5,) * 3, (0.5,) * 3
    )
    assert class_weights_of(config, streamed) == pytest.approx((3 / 2, 3 / 4))
    several = np.uint8([[1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert class_weights_of(config, dataset_with(several)) == pytest.approx((5 / 9, 5 / 3, 5 / 3))


def test_no_weights_are_given_unless_asked_for():
    assert class_weights_of(default_config(), dataset_with(LABELS)) == ()
    config = config_with(class_weights=(1, 2, 3.5))
    assert class_weights_of(config, dataset_with(LABELS)) == (1.0, 2.0, 3.5)


@pytest.mark.parametrize(
    ("weights", "labels", "words"),
    [
        ((1.0, 2.0), LABELS, r"class_weights=\(1.0, 2.0\) has 2 weights, but images has 3 classes"),
        ("balanced", np.array([0, 2]), '"balanced" has no weight for "b"'),
    ],
)
def test_weights_that_do_not_fit_the_classes_are_refused(weights, labels, words):
    with pytest.raises(UserError, match=words):
        class_weights_of(config_with(class_weights=weights), dataset_with(labels))


def test_classes_that_are_only_stored_with_the_images_are_not_counted():
    streamed = StreamedDataset("x", Numbers(4), Numbers(4), SMALL, SMALL, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=r"cannot count the classes of x, .* a number for each"):
        class_weights_of(config_with(class_weights="balanced"), streamed)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1, -2), ("a", 1), "heavy", 3, (float("nan"),)])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(UserError, match='class_weights must be "balanced", or numbers above 0'):
        check_config(config_with(class_weights=weights))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"loss": "mse"}, 'config.loss must be "softmax" or "bce"'),
        ({"dataset.multi_label": True, "dataset.labels": "x.csv"}, "in a folder; give the folder"),
        ({"dataset.multi_label": True, "loss": "bce"}, "needs a CSV file with the classes"),
        (
            {"dataset.multi_label": True},
            'config.loss="softmax" cannot learn; use config.loss="bce"',
        ),
        ({"dataset.labels": "x.csv"}, "labels=x.csv names the classes of images in a folder"),
        ({"dataset.exif_orientation": True}, "exif_orientation=True is for images in a folder"),
        ({"target_threshold": 0.2}, 'which needs config.loss="bce" and config.label_smoothing=0.0'),
        (
            {"target_threshold": 0.2, "loss": "bce", "label_smoothing": 0.1},
            "target_threshold=0.2 makes every target 0 or 1",
        ),
        ({"dataset.label_separator": "--"}, "label_separator must be one character"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        check_config(config_with(**fields))
