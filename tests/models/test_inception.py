import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import create_model
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.models.inception import ConvSpec


class Gate(nn.Module):
    """Multiplies all channels by a constant."""

    value: float

    def __call__(self, x):
        return self.value * x


@functools.cache
def shapes(name, **fields):
    model = create_model(name, **fields)
    size = model_info(name).input_size
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Of pretrainedmodels' BN-Inception, and of torchvision's and timm's networks of the same names
# from their documentation.
@pytest.mark.parametrize(
    ("name", "fields", "parameters"),
    [
        ("bn_inception", {}, 11_295_240),
        ("inception_v3", {}, 27_161_264),
        ("inception_v3", {"auxiliary": False}, 23_834_568),
        ("inception_resnet_v2", {}, 55_843_464),
    ],
)
def test_the_networks_have_the_published_number_of_parameters(name, fields, parameters):
    assert count(shapes(name, **fields)["params"]) == parameters


def test_the_form_for_small_images_differs_in_nothing_that_has_parameters():
    small = shapes("inception_v3_cifar")
    full = shapes("inception_v3", auxiliary=False)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, full)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("bn_inception", [(28, 320), (14, 608), (7, 1024)]),
        ("inception_v3", [(35, 288), (17, 768), (8, 2048)]),
        ("inception_v3_cifar", [(32, 288), (16, 768), (8, 2048)]),
        ("inception_resnet_v2", [(35, 320), (17, 1088), (8, 1536)]),
    ],
)
def test_features_are_the_outputs_of_the_stages(name, sizes):
    size = model_info(name).input_size
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    model = create_model(name, 10)
    maps, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True), x
    )
    expected = {f"stage{i}": (2, h, h, c) for i, (h, c) in enumerate(sizes, start=1)}
    assert {key: y.shape for key, y in maps.items()} == expected


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("bn_inception", 10),
        ("inception_v3", 11),
        ("inception_v3_cifar", 11),
        pytest.param("inception_resnet_v2", 43, marks=pytest.mark.slow),
    ],
)
def test_se_adds_a_block_of_the_papers_size_to_every_module(name, modules):
    with_se = shapes(f"se_{name}")["params"]
    extra, blocks = 0, 0
    for module in with_se.values():
        if "se" in module:
            channels = module["se"]["expand"]["bias"].shape[0]
            extra += 2 * channels * (channels // 16) + channels // 16 + channels
            blocks += 1
    assert blocks == modules
    assert blocks == sum(len(stage) for stage in model_info(name).fields["stages"])
    plain = count(shapes(f"se_{name}", se=None)["params"])
    assert count(with_se) - plain == extra
    # The released BN-Inception has biases, which batch norm cancels; the SE version has none.
    without_biases = count(shapes(name, conv_bias=False)["params"])
    assert plain == (without_biases if name == "bn_inception" else count(shapes(name)["params"]))


def small(name, **fields):
    """A network with the first and last module of each stage, narrow, for tiny images."""

    def narrow(layers):
        return tuple(
            dataclasses.replace(entry, features=4)
            if isinstance(entry, ConvSpec)
            else narrow(entry)
            if isinstance(entry, tuple)
            else entry
            for entry in layers
        )

    stages = tuple(
        tuple(
            dataclasses.replace(entry, branches=narrow(entry.branches))
            for entry in (stage[0], stage[-1])
        )
        for stage in model_info(name).fields["stages"]
    )
    stem = (ConvSpec("stem", 4, 3),)
    return create_model(name, 10, stem=stem, stages=stages, final=(), auxiliary=False, **fields)


IMAGES = np.random.default_rng(0).standard_normal((2, 15, 15, 3), np.float32)


def filled(model):
    """Random variables, of which the statistics are positive."""
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES))
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: generator.uniform(0.1 - (leaf.ndim > 1), 1.0, leaf.shape).astype(leaf.dtype),
        abstract,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bn_inception", "inception_v3", "inception_resnet_v2"])
def test_with_all_gates_open_a_network_equals_the_plain_one(name):
    with_se = small(name, se=functools.partial(Gate, 1.0))
    variables = filled(with_se)
    plain = jax.jit(small(name).apply)(variables, IMAGES)
    assert np.all(np.isfinite(plain))
    assert not np.allclose(plain[0], plain[1])
    gated = jax.jit(with_se.apply)(variables, IMAGES)
    np.testing.assert_allclose(gated, plain, rtol=1e-5)


@pytest.mark.parametrize("name", ["bn_inception", "inception_resnet_v2"])
def test_the_gate_multiplies_a_modules_output_or_its_residual_branch(name):
    model = small(name, se=functools.partial(Gate, 0.5))
    run = functools.partial(model.apply, capture_intermediates=True)
    _, state = jax.jit(run)(filled(model), IMAGES)
    state = state["intermediates"]
    before = None
    for entry in itertools.chain(*model.stages):
        module = state[entry.name]
        gated, output = module["se"]["__call__"][0], module["__call__"][0]
        if entry.scale is None:
            expected = gated
        else:
            np.testing.assert_array_equal(gated, 0.5 * module["projection"]["__call__"][0])
            expected = before + entry.scale * gated
            expected = jax.nn.relu(expected) if entry.activate else expected
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
        before = output


def test_auxiliary_logits_are_sown_in_training_alone_and_have_parameters_always():
    model = create_model("inception_v3", 10)
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    key = jax.random.key(0)
    rngs = {"params": key, "dropout": key}
    initial = {
        train: jax.eval_shape(lambda x, t=train: model.init(rngs, x, train=t), x)
        for train in (False, True)
    }
    assert initial[False] == initial[True]
    assert set(initial[False]) == {"params", "batch_stats"}
    assert initial[False]["params"]["auxiliary_classifier"]["kernel"].shape == (768, 10)

    for train in (False, True):
        logits, state = jax.eval_shape(
            lambda variables, x, t=train: model.apply(
                variables, x, train=t, rngs=rngs, mutable=["batch_stats", "intermediates"]
            ),
            initial[False],
            x,
        )
        assert logits.shape == (2, 10)
        sown = state.get("intermediates", {})
        assert {k: (v[0].shape, v[0].dtype) for k, v in sown.items()} == (
            {"auxiliary_logits": ((2, 10), jnp.float32)} if train else {}
        )


def test_images_too_small_for_the_auxiliary_classifier_are_reported():
    model = create_model("inception_v3", 10)
    x = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
    with pytest.raises(UserError, match=r"at least 17x17.*not 6x6.*auxiliary=False"):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)


def test_bfloat16_computes_in_it_and_keeps_float32_parameters_and_logits():
    model = small("se_inception_resnet_v2", dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 15, 15, 3), jnp.float32)
    logits, state = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, capture_intermediates=True), x
    )
    modules = {k: v for k, v in state.pop("intermediates").items() if k.startswith("block")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    assert logits.dtype == jnp.float32
    outputs = {module["__call__"][0].dtype for module in modules.values()}
    assert outputs == {jnp.dtype(jnp.bfloat16)}
