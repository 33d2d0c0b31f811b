import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from se_flax import create_model
from se_flax.data.preprocessing import Batch
from se_flax.errors import UserError
from se_flax.models.base import Network
from se_flax.parallel import AXIS, check_devices
from se_flax.state import create_state
from se_flax.step import make_train_step
from se_flax.train import train
from tests.models.test_base import FAMILIES

# One network of each kind of unit.
QUICK = ("small_cnn", "cnn3", "mobilenet_v3_small")
SLOW = ("bn_inception", "resnet18", "preact_resnet110_cifar")
SLOW += ("shufflenet", "shake_shake26_2x96d_cifar")


def some_batch(n=8, size=32):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, size, size, 3)).astype(np.float32)
    labels = generator.integers(0, 10, n).astype(np.int32)
    lam = generator.uniform(size=n).astype(np.float32)
    return Batch(*map(jnp.asarray, (images, labels, np.ones(n, bool), labels[::-1], lam)))


def on_devices(step, state, batch, devices):
    """Returns what the devices return, computed as one array."""

    def shares(x):
        return x.reshape(devices, -1, *x.shape[1:])

    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name=AXIS))
    return jax.tree.map(lambda x: x[0], mapped(state, jax.tree.map(shares, batch)))


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def made(name, **fields):
    model = create_model(name, 10, **fields)
    optimizer = optax.sgd(0.1, 0.9)
    return model, optimizer, jax.jit(lambda: create_state(model, optimizer, (32, 32, 3), 0))()


@pytest.mark.parametrize("parts", [2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("se_small_cnn", {"widths": (8, 8), "hidden": 8, "dropout": 0.0, "hidden_dropout": 0.0}),
        ("se_resnet20_cifar", {"stage_sizes": (1, 1, 1), "widths": (4, 8, 8)}),
    ],
)
def test_a_step_in_parts_is_the_step_on_the_whole_batch(name, fields, parts):
    # The first network has no batch norm, and the second one uses its running statistics.
    model, optimizer, state = made(name, **fields)
    frozen = name == "se_resnet20_cifar"
    make = functools.partial(make_train_step, model, optimizer, freeze_backbone=frozen)
    whole, metrics = on_devices(make(label_smoothing=0.1), state, some_batch(), 1)
    step = make(label_smoothing=0.1, accumulate_steps=parts)
    in_parts, metrics_in_parts = on_devices(step, state, some_batch(), 1)
    assert_close(in_parts, whole)
    assert_close(metrics_in_parts, metrics)
    assert float(metrics.count) == 8


class Tiny(Network, kw_only=True):
    """A convolution with batch norm, and dropout."""

    dropout: float = 0.5

    def feature_maps(self, x, train):
        x = self.make_conv()(4, (3, 3), strides=2, name="conv")(x)
        return {"stage1": self.make_norm(train)(name="bn")(x)}


def test_a_step_in_parts_is_the_step_on_so_many_times_as_many_devices():
    # With dropout, and with the statistics of each part.
    model, optimizer = Tiny(num_classes=10), optax.sgd(0.1, 0.9)
    state = create_state(model, optimizer, (32, 32, 3), 0)
    make = functools.partial(make_train_step, model, optimizer)
    eight, metrics = on_devices(make(), state, some_batch(16), 8)
    two, metrics_of_two = on_devices(make(accumulate_steps=4), state, some_batch(16), 2)
    assert_close(two, eight, rtol=1e-3, atol=1e-4)
    assert_close(metrics_of_two, metrics)


def test_devices_share_the_statistics_of_each_part_if_they_are_to():
    model, optimizer = Tiny(num_classes=10, sync_axis=AXIS), optax.sgd(0.1)
    state = create_state(model, optimizer, (32, 32, 3), 0)
    make = functools.partial(make_train_step, model, optimizer)
    plain, _ = on_devices(make(), state, some_batch(16), 2)
    in_parts, _ = on_devices(make(accumulate_steps=2), state, some_batch(16), 2)
    # Means are linear in the images, but variances are not.
    both = [x.batch_stats["bn"] for x in (plain, in_parts)]
    assert_close(both[0]["mean"], both[1]["mean"], atol=1e-6)
    assert np.abs(both[0]["var"] - both[1]["var"]).max() > 1e-6


@pytest.mark.parametrize(
    "name",
    [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_a_step_that_computes_maps_again_is_the_same_step(name):
    fields = FAMILIES[name]
    plain, optimizer, state = made(f"se_{name}", **fields)
    again, _, same = made(f"se_{name}", **fields, remat=True)
    jax.tree.map(np.testing.assert_array_equal, state, same)
    batch = some_batch(4)
    steps = [make_train_step(model, optimizer) for model in (plain, again)]
    traced = [
        str(
            jax.make_jaxpr(jax.vmap(step, (None, 0), axis_name=AXIS))(
                state, jax.tree.map(lambda x: x[None], batch)
            )
        )
        for step in steps
    ]
    assert [bool(re.search(r"(remat\d?|checkpoint)\[", each)) for each in traced] == [False, True]
    expected, metrics = on_devices(steps[0], state, batch, 1)
    result, metrics_again = on_devices(steps[1], state, batch, 1)
    assert_close(result, expected, rtol=1e-3, atol=1e-4)
    assert_close(metrics_again, metrics)


def test_gates_are_sown_by_units_that_are_computed_again():
    fields = {"stage_sizes": (1, 1, 1), "widths": (4, 8, 8)}
    images, gates = some_batch().images, []
    for remat in (False, True):
        model, _, state = made("se_resnet20_cifar", **fields, remat=remat)
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats", "intermediates"])
        gates.append(jax.jit(apply)(state.variables, images)[1]["intermediates"])
    assert len(jax.tree.leaves(gates[0])) == 3
    assert_close(*gates)


def test_a_run_can_save_memory_in_both_ways(tiny_config, stripes, tmp_path):
    results = []
    for number, (parts, remat) in enumerate(((1, False), (2, True))):
        tiny_config.num_epochs, tiny_config.accumulate_steps, tiny_config.remat = 1, parts, remat
        results.append(train(tiny_config, tmp_path / str(number), stripes)["final"])
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=0.2)
    assert results[1]["loss"] != results[0]["loss"]


def test_parts_that_do_not_divide_a_devices_images_are_refused(tiny_config):
    tiny_config.batch_size, tiny_config.accumulate_steps = 16, 4
    check_devices(tiny_config, 2)
    with pytest.raises(UserError, match="accumulate_steps=4 cannot divide the 2 images that each"):
        check_devices(tiny_config, 8)
