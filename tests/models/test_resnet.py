import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import SqueezeExcite, create_model
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.models.resnet import (
    BasicUnit,
    BottleneckUnit,
    PreactBasicUnit,
    PreactBottleneckUnit,
    halve_by_average,
    pad_shortcut,
)


@functools.cache
def shapes(name, num_classes):
    model = create_model(name, num_classes)
    size = model_info(name).input_size
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Millions of parameters in table 6 of He et al., arXiv:1512.03385, and the exact count worked
# out from the layers of section 4.2.
@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_cifar_resnets_have_the_published_number_of_parameters(depth, millions):
    n = (depth - 2) // 6
    convolutions = 9 * (3 * 16 + 2 * n * 16**2)
    convolutions += 9 * (16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
    batch_norms = 2 * (16 * (2 * n + 1) + 32 * 2 * n + 64 * 2 * n)
    expected = convolutions + batch_norms + 64 * 10 + 10

    parameters = count(shapes(f"resnet{depth}_cifar", 10)["params"])
    assert parameters == expected
    decimals = 1 if depth == 110 else 2
    assert round(parameters / 1e6, decimals) == millions


# Counts of torchvision's networks of the same names, from its documentation.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_imagenet_resnets_have_the_published_number_of_parameters(name, parameters):
    assert count(shapes(name, 1000)["params"]) == parameters


# Huang et al., arXiv:1608.06993, table 2.
@pytest.mark.parametrize("name", ["resnet164_cifar", "preact_resnet164_cifar"])
def test_the_164_layer_network_has_1_7_million_parameters(name):
    assert round(count(shapes(name, 10)["params"]) / 1e6, 1) == 1.7


@pytest.mark.parametrize(
    "name",
    ["resnet20_cifar", "resnet110_cifar", "resnet164_cifar", "resnet18", "resnet50", "resnet152"],
)
def test_se_adds_what_the_papers_formula_says(name):
    # Section 4: sum over stages of N * 2 C^2 / r without biases; the biases are C / r + C.
    info = model_info(name)
    bottleneck = name in ("resnet164_cifar", "resnet50", "resnet152")
    extra = 0
    for units, width in zip(info.fields["stage_sizes"], info.fields["widths"], strict=True):
        channels = width * (4 if bottleneck else 1)
        reduced = channels // 16
        extra += units * (2 * channels * reduced + reduced + channels)
    plain, with_se = (count(shapes(n, 10)["params"]) for n in (name, f"se_{name}"))
    assert with_se - plain == extra


def test_pad_shortcut_subsamples_and_appends_zeros():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    y = pad_shortcut(jnp.asarray(x), 5, 2)
    expected = np.zeros((2, 2, 2, 5), np.float32)
    expected[..., :3] = x[:, [0, 2]][:, :, [0, 2]]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", ["se_resnet20_cifar", "se_preact_resnet110_cifar"])
def test_the_head_and_stages_see_the_published_resolutions(name):
    model = create_model(name, 10, stage_sizes=(1, 1, 1))
    images = jnp.zeros((1, 32, 32, 3))
    _, state = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), images, mutable=True, capture_intermediates=True
        )
    )
    outputs = [
        state["intermediates"][f"stage{i}_unit1"]["__call__"][0].shape[1:] for i in (1, 2, 3)
    ]
    assert outputs == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]


def test_with_zero_init_a_unit_starts_as_an_identity():
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    shallow = create_model("se_resnet20_cifar", 10, stage_sizes=(1, 1, 1), zero_init=True)
    deep = create_model("se_resnet20_cifar", 10, stage_sizes=(4, 1, 1), zero_init=True)
    variables = jax.jit(functools.partial(deep.init, train=True))(jax.random.key(1), x)
    kept = {
        kind: {k: v for k, v in tree.items() if k not in [f"stage1_unit{j}" for j in (2, 3, 4)]}
        for kind, tree in variables.items()
    }
    np.testing.assert_allclose(
        deep.apply(variables, x, train=False), shallow.apply(kept, x, train=False), rtol=1e-5
    )


@pytest.mark.parametrize(
    "name", ["resnet20_cifar", pytest.param("preact_resnet110_cifar", marks=pytest.mark.slow)]
)
def test_the_work_of_a_step_grows_with_the_depth_and_not_with_its_square(name):
    images = jnp.zeros((2, 8, 8, 3))

    def work(units):
        model = create_model(name, 10, stage_sizes=(units,), widths=(8,))
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))

        def loss(params, batch_stats):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return jnp.sum(logits)

        compiled = jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"])
        return compiled.compile().cost_analysis()["bytes accessed"]

    first, second = work(6) - work(3), work(12) - work(6)
    assert second == pytest.approx(2 * first, rel=0.05)


def test_bfloat16_computes_in_it_and_keeps_float32_parameters_and_logits():
    model = create_model("se_resnet20_cifar", 10, dtype=jnp.bfloat16, stage_sizes=(1, 1, 1))
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    variables = model.init(jax.random.key(1), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits, state = model.apply(variables, x, capture_intermediates=True)
    assert logits.dtype == jnp.float32
    assert state["intermediates"]["stage3_unit1"]["__call__"][0].dtype == jnp.bfloat16


def test_se_is_passed_in_as_a_partial():
    wide = functools.partial(SqueezeExcite, reduction=2)
    model = create_model("resnet20_cifar", 10, se=wide, stage_sizes=(1, 1, 1))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))[
        "params"
    ]
    assert params["stage1_unit1"]["se"]["reduce"]["kernel"].shape == (16, 8)


def unit_outputs(placement):
    """Inputs and outputs of a network's second unit, which keeps the shape."""
    model = create_model("se_resnet20_cifar", 10, stage_sizes=(2,), widths=(8,), reduction=2)
    model = model.clone(se_placement=placement)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    variables = model.init(jax.random.key(1), x)
    _, state = model.apply(variables, x, capture_intermediates=True)
    state = state["intermediates"]
    first, unit = state["stage1_unit1"]["__call__"][0], state["stage1_unit2"]
    return first, unit


# SE paper, figure 5, written out for a unit whose shortcut is the identity.
@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity"])
def test_se_is_at_its_placement(placement):
    x, unit = unit_outputs(placement)
    # A new batch norm only adds epsilon to the variance 1.
    branch, output = unit["conv2"]["__call__"][0] / np.sqrt(1 + 1e-5), unit["__call__"][0]
    gate = unit["se"]["excitation"][0][:, None, None]
    expected = {
        "standard": lambda: jax.nn.relu(x + gate * branch),
        "pre": lambda: jax.nn.relu(x + branch),
        "post": lambda: gate * jax.nn.relu(x + branch),
        "identity": lambda: jax.nn.relu(gate * x + branch),
    }[placement]()
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    if placement == "pre":
        np.testing.assert_allclose(unit["se"]["__call__"][0], gate * x, rtol=1e-6)
        # and that is what the branch's first layer sees
        other, *_ = unit_outputs("standard")[1]["conv1"]["__call__"]
        assert not np.allclose(unit["conv1"]["__call__"][0], other)


@pytest.mark.parametrize("unit", [BottleneckUnit, PreactBasicUnit, PreactBottleneckUnit])
@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity"])
def test_se_is_at_its_placement_in_the_other_units(unit, placement):
    conv = functools.partial(nn.Conv, use_bias=False, padding=0)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    se = functools.partial(SqueezeExcite, reduction=2)
    width = 8 if unit is PreactBasicUnit else 2
    block = unit(width, 1, conv, norm, se=se, se_placement=placement)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    variables = block.init(jax.random.key(1), x)
    output, state = block.apply(variables, x, capture_intermediates=True)
    state = state["intermediates"]
    gate = state["se"]["excitation"][0][:, None, None]
    end = "bn3" if unit is BottleneckUnit else "conv2" if unit is PreactBasicUnit else "conv3"
    branch = state[end]["__call__"][0]
    activation = jax.nn.relu if unit is BottleneckUnit else lambda y: y
    expected = {
        "standard": lambda: activation(x + gate * branch),
        "pre": lambda: activation(x + branch),
        "post": lambda: gate * activation(x + branch),
        "identity": lambda: activation(gate * x + branch),
    }[placement]()
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    if placement == "pre":
        np.testing.assert_allclose(state["se"]["__call__"][0], gate * x, rtol=1e-6)


# "Directly after" the 3x3 convolution and its batch norm, before the ReLU.
@pytest.mark.parametrize("unit", [BottleneckUnit, PreactBottleneckUnit])
def test_se_3x3_is_directly_after_the_3x3_convolution(unit):
    conv = functools.partial(nn.Conv, use_bias=False, padding=0)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    block = unit(4, 1, conv, norm, se=functools.partial(SqueezeExcite, reduction=2))
    block = block.clone(se_placement="3x3")
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
    variables = block.init(jax.random.key(1), x)
    _, state = block.apply(variables, x, capture_intermediates=True)
    state = state["intermediates"]
    before = state["bn2" if unit is BottleneckUnit else "conv2"]["__call__"][0]
    gate = state["se"]["excitation"][0][:, None, None]
    np.testing.assert_allclose(state["se"]["__call__"][0], gate * before, rtol=1e-6)
    after = jax.nn.relu(gate * before)
    if unit is PreactBottleneckUnit:  # its third batch norm, which is new, follows
        after = after / np.sqrt(1 + 1e-5)
    expected = after @ variables["params"]["conv3"]["kernel"][0, 0]
    np.testing.assert_allclose(state["conv3"]["__call__"][0], expected, rtol=1e-4, atol=1e-6)


def test_se_3x3_has_the_papers_number_of_parameters():
    # SE paper, table 15: 25.8 million, which counts the statistics of batch norms, as the 28.1 of
    # SE-ResNet-50 there do.
    model = create_model("se_resnet50", se_placement="3x3")
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    assert round(count(variables) / 1e6, 1) == 25.8
    assert round(count(shapes("se_resnet50", 1000)) / 1e6, 1) == 28.1


def test_se_3x3_needs_a_bottleneck():
    for name in ("se_resnet18", "se_preact_resnet110_cifar"):
        with pytest.raises(UserError, match='se_placement="3x3" needs bottleneck units'):
            create_model(name, se_placement="3x3")


def test_resnet_d_averages_before_the_convolution_on_a_shortcut():
    x = np.arange(2 * 5 * 4, dtype=np.float32).reshape(1, 5, 4, 2)
    expected = np.stack(
        [[x[0, i : i + 2, j : j + 2].mean((0, 1)) for j in (0, 2)] for i in (0, 2, 4)]
    )
    np.testing.assert_allclose(halve_by_average(jnp.asarray(x))[0], expected, rtol=1e-6)


def test_wrn_16_8_has_the_published_number_of_parameters():
    # Zagoruyko & Komodakis, table 5: 11.0 million.
    assert round(count(shapes("wrn16_8_cifar", 10)["params"]) / 1e6, 1) == 11.0


def test_a_resnext_is_made_by_a_unit_with_groups():
    unit = functools.partial(BottleneckUnit, groups=32, group_width=4)
    sizes = {"stage_sizes": (1, 1, 1, 1)}
    ours = create_model("se_resnet50", 10, unit=unit, **sizes)
    registered = create_model("se_resnext50_32x4d", 10, **sizes)
    x = jnp.zeros((1, 32, 32, 3))
    assert jax.eval_shape(lambda: ours.init(jax.random.key(0), x)) == jax.eval_shape(
        lambda: registered.init(jax.random.key(0), x)
    )


def test_only_the_requested_stages_have_se():
    model = create_model("se_resnet20_cifar", 10, se_stages=(2,))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    carriers = {name for name, unit in params["params"].items() if "se" in unit}
    assert carriers == {"stage2_unit1", "stage2_unit2", "stage2_unit3"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"se_placement": "prior"}, 'no se_placement "prior"'),
        ({"se_stages": (0, 1)}, "stage 0, which does not exist"),
        ({"se_stages": (4,)}, "stage 4, .* choose from 1 to 3"),
        ({"variant": "bmp"}, '"bump"'),
    ],
)
def test_an_unknown_placement_stage_or_variant_is_reported(overrides, words):
    with pytest.raises(ValueError, match=words):
        create_model("se_resnet20_cifar", 10, **overrides)


@pytest.mark.parametrize("variant", ["slow_squeeze", "bump"])
@pytest.mark.parametrize("placement", ["pre", "post", "identity"])
def test_any_variant_works_in_any_placement_of_any_unit(variant, placement):
    for name in ("se_resnet18", "se_resnext29_8x64d_cifar", "se_preact_resnet110_cifar"):
        model = create_model(name, 10, variant=variant, se_placement=placement, se_stages=(1, 3))
        model = model.clone(stage_sizes=(1,) * len(model.stage_sizes))
        x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        logits, _ = jax.eval_shape(lambda x, m=model: m.init_with_output(jax.random.key(0), x), x)
        assert logits.shape == (2, 10)


def test_the_first_unit_with_preactivation_activates_before_its_shortcut_too():
    # He et al. 2016, appendix: "we adopt the first activation right after conv1 and before
    # splitting into two paths".
    model = create_model("preact_resnet110_cifar", 10, stage_sizes=(2,), widths=(8,))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    _, state = model.init_with_output(jax.random.key(1), x, capture_intermediates=True)
    state = state["intermediates"]
    stem = state["stem_conv"]["__call__"][0]
    first, second = state["stage1_unit1"], state["stage1_unit2"]
    for unit, shortcut in (
        (first, jax.nn.relu(first["bn1"]["__call__"][0])),
        (second, first["__call__"][0]),
    ):
        expected = shortcut + unit["conv2"]["__call__"][0]
        np.testing.assert_allclose(unit["__call__"][0], expected, rtol=1e-6)
    assert not np.allclose(first["__call__"][0], stem + first["conv2"]["__call__"][0])


def test_features_are_the_outputs_of_the_stages():
    model = create_model("se_resnet50", 10)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True), x
    )
    assert {name: y.shape for name, y in maps.items()} == {
        "stage1": (2, 56, 56, 256),
        "stage2": (2, 28, 28, 512),
        "stage3": (2, 14, 14, 1024),
        "stage4": (2, 7, 7, 2048),
    }


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("resnet50_caffe", marks=pytest.mark.slow)]
)
def test_with_all_gates_open_it_equals_the_plain_network(name):
    fields = {"stage_sizes": (1, 2), "widths": (16, 32)}
    with_se, plain = (create_model(n, 10, **fields) for n in (f"se_{name}", name))
    images = jax.random.normal(jax.random.key(0), (2, 33, 33, 3))
    variables = jax.jit(lambda: with_se.init(jax.random.key(1), images))()
    shut = jax.jit(with_se.apply)(variables, images)
    for unit in [name for name in variables["params"] if "unit" in name]:
        layer = variables["params"][unit]["se"]["expand"]
        layer["kernel"], layer["bias"] = 0 * layer["kernel"], 0 * layer["bias"] + 100.0
    opened = jax.jit(with_se.apply)(variables, images)
    for unit in [name for name in variables["params"] if "unit" in name]:
        del variables["params"][unit]["se"]
    np.testing.assert_allclose(opened, jax.jit(plain.apply)(variables, images), rtol=1e-4)
    assert not np.allclose(opened, shut, rtol=1e-2)


def test_stochastic_depth_skips_the_branch_of_whole_examples_and_keeps_the_mean():
    class Ones(nn.Module):
        def __call__(self, x):
            return jnp.ones_like(x)

    def ones(*args, name, **fields):
        return Ones(name=name)

    x = jnp.zeros((4000, 2, 2, 8))
    unit = BasicUnit(8, 1, conv=ones, norm=ones, drop_rate=0.25)
    y = unit.apply({}, x, rngs={"dropout": jax.random.key(0)})
    first = y[:, 0, 0, 0]
    np.testing.assert_array_equal(y, jnp.broadcast_to(first[:, None, None, None], y.shape))
    assert {round(float(value), 3) for value in np.unique(first)} == {0.0, round(1 / 0.75, 3)}
    assert float(jnp.mean(first)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("train", [True, False])
def test_the_rate_of_stochastic_depth_grows_from_unit_to_unit_in_training_alone(train):
    rates = {}

    class Recording(BasicUnit):
        def add(self, shortcut, branch, activation=None):
            rates[self.name] = self.drop_rate
            return shortcut

    model = create_model("se_resnet18", 10, stochastic_depth=0.7, unit=Recording)
    x = jnp.zeros((1, 32, 32, 3))
    jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=train))
    expected = [0.1 * k if train else 0.0 for k in range(8)]
    assert list(rates.values()) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["resnet18", "se_preact_resnet110_cifar"])
def test_stochastic_depth_changes_no_parameter(name):
    x = jnp.zeros((1, 32, 32, 3))

    def shapes_with(rate):
        model = create_model(name, 10, stochastic_depth=rate)
        return jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=True))

    assert shapes_with(0.1) == shapes_with(0.0)
