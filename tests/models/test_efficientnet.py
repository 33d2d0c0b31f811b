import functools
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import SqueezeExcite, create_model
from se_flax.errors import UserError
from se_flax.layers.initializers import he_normal
from se_flax.models import model_info
from se_flax.models.efficientnet import (
    MBConv,
    efficientnet,
    grid_search,
    round_channels,
)


def shapes(model, size=32):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Exact counts of the authors' networks as timm documents them; millions in table 2 of the paper,
# which rounds the 9.11 of B2 up.
@pytest.mark.parametrize(
    ("name", "parameters", "millions"),
    [
        ("efficientnet_b0", 5_288_548, 5.3),
        ("efficientnet_b1", 7_794_184, 7.8),
        ("efficientnet_b2", 9_109_994, 9.2),
        pytest.param("efficientnet_b3", 12_233_232, 12, marks=pytest.mark.slow),
        pytest.param("efficientnet_b4", 19_341_616, 19, marks=pytest.mark.slow),
        pytest.param("efficientnet_b5", 30_389_784, 30, marks=pytest.mark.slow),
        pytest.param("efficientnet_b6", 43_040_704, 43, marks=pytest.mark.slow),
        ("efficientnet_b7", 66_347_960, 66),
    ],
)
def test_has_the_published_number_of_parameters(name, parameters, millions):
    assert count(shapes(create_model(name))) == parameters
    assert parameters / 1e6 == pytest.approx(millions, rel=0.02)


# PyTorch's defaults, and the batch norm of torchvision's B5 to B7; inputs of torchvision's figures.
@pytest.mark.parametrize(
    ("name", "epsilon", "momentum", "resized", "input_size"),
    [
        ("efficientnet_b0_torch", 1e-5, 0.9, 256, 224),
        ("efficientnet_b1_torch", 1e-5, 0.9, 255, 240),
        ("efficientnet_b2_torch", 1e-5, 0.9, 288, 288),
        ("efficientnet_b3_torch", 1e-5, 0.9, 320, 300),
        ("efficientnet_b4_torch", 1e-5, 0.9, 384, 380),
        ("efficientnet_b5_torch", 1e-3, 0.99, 456, 456),
        ("efficientnet_b6_torch", 1e-3, 0.99, 528, 528),
        ("efficientnet_b7_torch", 1e-3, 0.99, 600, 600),
        ("efficientnet_b5_timm", 1e-5, 0.9, 448, 448),
    ],
)
def test_the_forms_of_pytorch_differ_only_in_padding_batch_norm_and_input(
    name, epsilon, momentum, resized, input_size
):
    info, original = model_info(name), model_info(name[: len("efficientnet_b0")])
    assert (info.input_size, int(info.input_size / info.crop_pct)) == (input_size, resized)
    own = {
        "symmetric_padding": True,
        "norm_epsilon": epsilon,
        "norm_momentum": momentum,
        "resolution": input_size,
    }
    assert create_model(name) == create_model(original.name, **own)
    plain = create_model(original.name)
    assert not plain.symmetric_padding
    assert (plain.norm_epsilon, plain.norm_momentum) == (1e-3, 0.99)


def test_symmetric_padding_centres_a_convolution_with_stride_2():
    # With one pixel on each side, the first window of the stem starts at -1 and not at 0.
    image = jnp.zeros((1, 32, 32, 3)).at[0, 0, 0].set(1.0)

    @functools.partial(jax.jit, static_argnums=0)  # leaves out all that follows the stem
    def stem_of(symmetric):
        model = create_model("efficientnet_b0", symmetric_padding=symmetric, depth_coefficient=0.1)
        variables = model.init(jax.random.key(0), image)
        kernel = variables["params"]["stem_conv"]["kernel"]
        _, state = model.apply(
            variables, image, capture_intermediates=lambda module, _: module.name == "stem_conv"
        )
        return state["intermediates"]["stem_conv"]["__call__"][0][0, 0, 0], kernel.sum(2)

    value, kernel = stem_of(symmetric=True)
    np.testing.assert_allclose(value, kernel[1, 1], rtol=1e-5)
    value, kernel = stem_of(symmetric=False)
    np.testing.assert_allclose(value, kernel[0, 0], rtol=1e-5)


# Section 5.2 and table 1 of the paper.
@pytest.mark.parametrize(
    ("name", "input_size", "dropout"),
    [("efficientnet_b0", 224, 0.2), ("efficientnet_b4", 380, 0.4), ("efficientnet_b7", 600, 0.5)],
)
def test_input_size_and_dropout_are_those_of_the_family(name, input_size, dropout):
    info = model_info(name)
    assert (info.input_size, info.fields["dropout"]) == (input_size, dropout)


def test_features_are_the_maps_of_table_1():
    model = create_model("efficientnet_b0")
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    maps, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, features=True), x
    )
    expected = [(112, 16), (56, 24), (28, 40), (14, 80), (14, 112), (7, 192), (7, 320)]
    assert {name: y.shape for name, y in maps.items()} == {
        f"stage{i}": (2, size, size, channels)
        for i, (size, channels) in enumerate(expected, start=1)
    } | {"head": (2, 7, 7, 1280)}


@pytest.mark.parametrize(
    ("channels", "rounded"), [(16, 16), (35.2, 32), (57.6, 56), (1, 8), (11, 16), (28, 32)]
)
def test_channels_round_to_a_multiple_of_8_not_far_below(channels, rounded):
    assert round_channels(channels) == rounded


def se_widths(**overrides):
    params = shapes(create_model("efficientnet_b0", **overrides))
    units = [f"stage{i}_unit1" for i in range(1, 8)]
    return [params[unit]["se"]["reduce"]["bias"].shape[0] for unit in units]


INPUTS = [32, 16, 24, 40, 80, 112, 192]


def test_se_squeezes_to_a_quarter_of_the_units_input():
    assert se_widths() == [channels // 4 for channels in INPUTS]
    params = shapes(create_model("efficientnet_b0"))
    assert params["stage2_unit1"]["se"]["expand"]["bias"].shape == (6 * 16,)


def test_another_reduction_also_refers_to_the_units_input():
    expected = [max(1, channels // 20) for channels in INPUTS]
    assert se_widths(reduction=20) == expected
    assert se_widths(se=functools.partial(SqueezeExcite, reduction=20)) == expected
    assert se_widths(variant="bump", width=5) == [5] * 7


def test_a_block_of_another_class_is_used_unchanged():
    class Halve(nn.Module):
        def __call__(self, x):
            return x / 2

    model = create_model("efficientnet_b0", se=Halve)
    assert count(shapes(model)) == count(shapes(create_model("efficientnet_b0", se=None)))


def test_a_block_of_another_class_keeps_its_own_fields():
    class Dense(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return x * nn.Dense(x.shape[-1])(nn.Dense(self.width, name="reduce")(x))

    assert se_widths(se=functools.partial(Dense, width=8)) == [8] * 7


def test_without_se_there_is_nothing_to_reduce():
    assert "se" not in shapes(create_model("efficientnet_b0", se=None))["stage2_unit1"]
    with pytest.raises(UserError, match='"reduction" does not apply'):
        create_model("efficientnet_b0", se=None, reduction=8)


def test_the_block_uses_swish():
    conv = functools.partial(nn.Conv, use_bias=False)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    unit = MBConv(8, 3, 1, 1, 0.0, conv=conv, norm=norm, se=create_model("efficientnet_b0").se)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 8))
    variables = unit.init(jax.random.key(1), x, train=False)
    _, state = unit.apply(variables, x, train=False, capture_intermediates=True)
    state, params = state["intermediates"], variables["params"]["se"]
    z = jnp.mean(jax.nn.swish(state["depthwise_bn"]["__call__"][0]), axis=(1, 2))
    hidden = jax.nn.swish(z @ params["reduce"]["kernel"])
    gate = jax.nn.sigmoid(hidden @ params["expand"]["kernel"])
    np.testing.assert_allclose(state["se"]["excitation"][0], gate, rtol=1e-5)


def test_kernels_start_with_variance_2_over_fan_out():
    conv = functools.partial(nn.Conv, kernel_init=he_normal, use_bias=False)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    unit = MBConv(320, 3, 1, 6, 0.0, conv=conv, norm=norm)
    x = jnp.zeros((1, 4, 4, 192))
    params = unit.init(jax.random.key(0), x, train=False)["params"]
    for layer, fan_out in [("expand", 1152), ("depthwise", 3 * 3), ("project", 320)]:
        kernel = params[f"{layer}_conv"]["kernel"]
        assert float(jnp.var(kernel)) == pytest.approx(2 / fan_out, rel=0.05)


def test_stochastic_depth_skips_whole_examples_and_keeps_the_mean():
    def ones(*args, name, **fields):
        return jnp.ones_like

    unit = MBConv(8, 3, 1, 1, 0.25, conv=ones, norm=ones)
    x = jnp.zeros((4000, 2, 2, 8))
    y = unit.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    first = y[:, 0, 0, 0]
    np.testing.assert_array_equal(y, jnp.broadcast_to(first[:, None, None, None], y.shape))
    assert {round(float(value), 3) for value in np.unique(first)} == {0.0, round(1 / 0.75, 3)}
    assert float(jnp.mean(first)) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(unit.apply({}, x, train=False), 1.0)


def test_training_draws_from_the_collection_dropout_and_evaluation_from_none():
    model = efficientnet(0, 10)
    x = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x))

    def logits(train, rngs):
        return jax.eval_shape(
            lambda v: model.apply(v, x, train=train, mutable=["batch_stats"], rngs=rngs)[0],
            variables,
        )

    assert logits(True, {"dropout": jax.random.key(1)}).shape == (2, 10)
    assert logits(False, {}).shape == (2, 10)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        logits(True, {})


def test_phi_0_is_b0():
    assert efficientnet(0, 10) == create_model("efficientnet_b0", 10)


def test_compound_scaling_multiplies_depth_width_and_resolution():
    model = efficientnet(2, alpha=1.25, beta=1.5, gamma=1.5)
    assert (model.depth_coefficient, model.width_coefficient) == (1.5625, 2.25)
    assert model.resolution == 504
    params = shapes(model)
    depths = [sum(unit.startswith(f"stage{i}_") for unit in params) for i in range(1, 8)]
    assert depths == [math.ceil(1.5625 * units) for units in (1, 2, 2, 3, 3, 4, 1)]
    assert params["stem_conv"]["kernel"].shape[-1] == 72
    assert params["head_conv"]["kernel"].shape[-1] == 2880


def test_dropout_grows_linearly_unless_given():
    rates = [efficientnet(phi).dropout for phi in (0, 3.5, 7, 9)]
    assert rates == pytest.approx([0.2, 0.35, 0.5, 0.5])
    assert efficientnet(7, dropout=0.1).dropout == 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"phi": -1}, "phi must be at least 0, not -1"),
        ({"phi": 1, "alpha": 0.9}, "alpha must be at least 1, not 0.9"),
        ({"phi": 1, "beta": 0.5}, "beta must be at least 1, not 0.5"),
        ({"phi": 1, "gamma": 0.5}, "gamma must be at least 1, not 0.5"),
    ],
)
def test_scaling_that_shrinks_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        efficientnet(**arguments)


def test_grid_search_returns_the_triple_with_the_highest_score():
    tried = []

    def score(alpha, beta, gamma):
        tried.append((alpha, beta, gamma))
        return -abs(alpha - 1.2) - abs(beta - 1.1) - abs(gamma - 1.15)

    assert grid_search(score) == (1.2, 1.1, 1.15)
    assert len(tried) == len(set(tried)) > 20
    for alpha, beta, gamma in tried:
        assert min(alpha, beta, gamma) >= 1
        assert abs(alpha * beta**2 * gamma**2 - 2) <= 0.1 + 1e-6
    # The ends of the grid, where all the work goes into one coefficient.
    assert {(2.0, 1.0, 1.0), (1.0, 1.4, 1.0), (1.0, 1.0, 1.4)} <= set(tried)


def test_grid_search_skips_a_score_that_is_nan():
    best = grid_search(lambda alpha, beta, gamma: math.nan if alpha > 1 else -beta)
    assert best == (1.0, 1.0, 1.4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": 0}, "step must be more than 0"),
        ({"tolerance": -1}, "tolerance must be at least 0"),
        ({"step": 0.3, "tolerance": 0}, "no alpha, beta and gamma in steps of 0.3"),
    ],
)
def test_a_grid_without_points_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        grid_search(lambda *_: 0.0, **options)


def test_a_wide_block_has_a_quarter_of_the_expanded_channels():
    for name, width in (("efficientnet_b0", 24 // 4), ("efficientnet_b0_widese", 6 * 24 // 4)):
        block = shapes(create_model(name))["stage2_unit2"]["se"]
        assert block["reduce"]["kernel"].shape == (6 * 24, width)
