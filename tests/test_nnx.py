"""The networks as NNX modules, against the same networks in linen."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import se_flax
from se_flax.errors import UserError
from se_flax.nnx import create_model, from_linen, to_linen

SHAPE = (8, 8, 3)
TINY = {"num_classes": 5, "stage_sizes": (1,), "widths": (8,)}
LABELS = jnp.array([0, 3, 1, 4])


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (4, *SHAPE))


@pytest.fixture(scope="module")
def network():
    return se_flax.create_model("se_resnet20_cifar", dropout=0.5, **TINY)


@pytest.fixture(scope="module")
def variables(network, images):
    """Variables with running statistics that differ from the initial ones."""
    variables = jax.jit(network.init)(jax.random.key(0), images)
    change = functools.partial(jax.tree.map, lambda x: x + jnp.linspace(0.1, 0.3, x.size))
    return {**variables, "batch_stats": change(variables["batch_stats"])}


@pytest.fixture
def model(network, variables):
    return from_linen(network, variables, nnx.Rngs(7))


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected
    )


def logits_of(model, images):
    return nnx.jit(lambda model, images: model(images))(model, images)


def test_a_new_model_has_the_variables_that_linen_draws(images):
    model = create_model("se_resnet20_cifar", rngs=nnx.Rngs(3), image_shape=SHAPE, **TINY)
    network = se_flax.create_model("se_resnet20_cifar", **TINY)
    expected = jax.jit(network.init)(nnx.Rngs(3).params(), images)
    state = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    assert_equal(state, expected)
    assert set(nnx.to_pure_dict(nnx.state(model, nnx.Param))) == {"params"}
    assert set(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))) == {"batch_stats"}


def test_a_model_can_be_made_without_memory():
    def make():
        return create_model("se_resnet20_cifar", rngs=nnx.Rngs(0), **TINY)

    shape = nnx.eval_shape(make).params["stem_conv"]["kernel"].get_value()
    assert isinstance(shape, jax.ShapeDtypeStruct)
    assert shape.shape == (3, 3, 3, 8)


def test_logits_are_those_of_linen_bit_for_bit(model, network, variables, images):
    model.eval()
    assert_equal(logits_of(model, images), jax.jit(network.apply)(variables, images))
    assert_equal(to_linen(model), (network, variables))


def test_feature_maps_are_those_of_linen(model, network, variables, images):
    model.eval()
    maps = nnx.jit(lambda model, images: model(images, features=True))(model, images)
    expected = jax.jit(functools.partial(network.apply, features=True))(variables, images)
    assert_equal(maps, expected)


def test_two_training_steps_are_those_of_linen(model, network, variables, images):
    tx = optax.sgd(0.1, momentum=0.9)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    stream = nnx.Rngs(7)["dropout"].fork()

    @nnx.jit
    def step(model, optimizer, images):
        def loss_of(model):
            logits = model(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss, nnx.to_pure_dict(gradients)["params"]

    @jax.jit
    def linen_step(variables, opt_state, key):
        def loss_of(params):
            logits, updated = network.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
            return loss, updated

        params = variables["params"]
        (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        return {"params": params, **updated}, opt_state, (loss, gradients)

    opt_state = tx.init(variables["params"])
    before = variables
    for _ in range(2):
        variables, opt_state, expected = linen_step(variables, opt_state, stream())
        assert_close(step(model, optimizer, images), expected)
        assert_close(to_linen(model)[1], variables)
    changed = jax.tree.map(lambda a, b: bool((a != b).all()), before, variables)
    assert changed["batch_stats"]["stem_bn"] == {"mean": True, "var": True}


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "tree"])
def test_training_updates_the_batch_statistics_that_others_may_hold(model, images, graph):
    mean = model.batch_stats["stem_bn"]["mean"]
    before = mean.get_value()
    nnx.jit(lambda model, images: model(images), graph=graph)(model, images)
    assert model.batch_stats["stem_bn"]["mean"] is mean
    assert (mean.get_value() != before).all()


def test_evaluation_changes_nothing(model, images):
    model.eval()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))
    logits_of(model, images)
    assert_equal(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))), before)


def test_the_mode_is_that_of_the_argument_or_of_the_module_that_holds_the_model(model, images):
    class Holder(nnx.Module):
        def __init__(self):
            self.inner = model

    call = nnx.jit(lambda model, images, train: model(images, train), static_argnums=2)
    holder = Holder()
    holder.eval()
    evaluated = call(model, images, None)
    assert_equal(call(model, images, False), evaluated)
    assert (call(model, images, True) != evaluated).any()
    holder.train()
    assert not model.deterministic
    view = nnx.view(model, deterministic=True, use_running_average=True)
    assert not model.deterministic
    # The statistics are those that training has moved, which the view shares.
    assert_equal(call(view, images, None), call(model, images, False))


def test_a_mode_for_dropout_alone_is_refused(model, images):
    model.set_attributes(deterministic=True)
    with pytest.raises(UserError, match=r"one switch for both; call model.train\(\) or"):
        model(images)


def test_split_and_merge_give_the_same_model(model, images):
    model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def logits(params, rest, images):
        return nnx.merge(graphdef, params, rest)(images)

    assert_equal(logits(params, rest, images), logits_of(model, images))


def test_dropout_draws_a_new_key_at_each_call(network, variables, images):
    call = nnx.jit(lambda model, rngs: model(images, rngs=rngs))
    model, other = (from_linen(network, variables, nnx.Rngs(dropout=7)) for _ in range(2))
    first, second = call(model, None), call(model, None)
    assert not np.allclose(first, second)
    assert_close((call(other, None), call(other, None)), (first, second))
    own = call(model, nnx.Rngs(dropout=1))
    assert_close(call(from_linen(network, variables), nnx.Rngs(dropout=1)), own)


def test_dropout_without_keys_is_refused(network, variables, images):
    model = from_linen(network, variables, nnx.Rngs(params=0))
    with pytest.raises(UserError, match=r'no stream "dropout" or "default" of keys; give rngs='):
        logits_of(model, images)


def test_gates_are_captured_under_their_linen_names(model, network, variables, images):
    model.eval()

    @nnx.jit
    def capture(model, images):
        return nnx.capture(model, nnx.Intermediate)(images)

    logits, sown = capture(model, images)
    apply = jax.jit(functools.partial(network.apply, mutable=["intermediates"]))
    expected = apply(variables, images)
    gates = nnx.to_pure_dict(sown)
    assert_equal((logits, {"intermediates": gates}), expected)
    assert sown["stage1_unit1"]["se"]["excitation"][0].shape == (4, 8)
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))

    twice = nnx.capture(lambda model: (model(images), model(-images)), nnx.Intermediate)
    both = nnx.jit(lambda model: twice(model)[1])(model)
    gates = both["stage1_unit1"]["se"]["excitation"]
    other = apply(variables, -images)[1]["intermediates"]["stage1_unit1"]["se"]["excitation"]
    assert_close(gates, (*sown["stage1_unit1"]["se"]["excitation"], *other))


class OfAnother(nn.Module):
    """Another author's network, which is not told whether it is training."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(8, (3, 3), name="stem_conv")(x)


@pytest.mark.parametrize("own", [True, False], ids=["own", "of another author"])
def test_a_network_with_added_blocks_can_be_used(images, own):
    network = se_flax.create_model("resnet20_cifar", **TINY) if own else OfAnother()
    network = se_flax.add_se(network, "stem_conv", reduction=4)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    model = from_linen(network, variables)
    model.eval()
    assert "stem_conv_se" in model.params
    assert_equal(logits_of(model, images), jax.jit(network.apply)(variables, images))


def test_a_block_can_be_part_of_an_nnx_module():
    maps = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    block = se_flax.SqueezeExcite(reduction=4)
    variables = jax.jit(block.init)(jax.random.key(0), maps)

    class Holder(nnx.Module):
        def __init__(self):
            self.se = from_linen(block, variables)

        def __call__(self, maps):
            return 2 * self.se(maps)

    @nnx.jit
    def capture(model):
        return nnx.capture(model, nnx.Intermediate)(maps)

    rescaled, sown = capture(Holder())
    expected = jax.jit(functools.partial(block.apply, mutable=["intermediates"]))(variables, maps)
    found = (rescaled / 2, {"intermediates": nnx.to_pure_dict(sown)["se"]})
    assert_equal(found, expected)


class Listed(nn.Module):
    sizes: list[int]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("se_resnet20", rngs=nnx.Rngs(0)), 'there is no model "se_resnet20"'),
        (lambda: create_model("se_resnet20_cifar", rngs=nnx.Rngs(dropout=0)), 'stream "params" or'),
        (lambda: create_model("se_resnet20_cifar", rngs=0), "not 0"),
        (lambda: create_model("se_resnet20_cifar", rngs=nnx.Rngs(0), widths=[8]), 'field "widths"'),
        (
            lambda: from_linen("se_resnet50", {}),
            "model must be a linen network.* not 'se_resnet50'",
        ),
        (lambda: from_linen(Listed([1]), {"params": {}}), 'field "sizes" of Listed is a list'),
        (lambda: from_linen(nn.Dense(1), {}), 'must hold "params".* not nothing'),
        (lambda: from_linen(nn.Dense(1), {"params": {}, "cache": {}}), "not 'params', 'cache'"),
    ],
)
def test_errors_say_what_is_expected(call, message):
    with pytest.raises(UserError, match=message):
        call()
