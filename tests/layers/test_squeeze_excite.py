import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import SqueezeExcite
from se_flax.layers.squeeze_excite import (
    Bump,
    SlowSqueezeExcite,
    SlowSqueezeSlowExcite,
    SqueezeSlowExcite,
)


def paper_equations(x, w1, b1, w2, b2):
    """Equations 2 to 4 of arXiv:1709.01507 for one map [h, w, c], written with loops."""
    height, width, channels = x.shape
    z = np.zeros(channels)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                z[c] += x[i, j, c] / (height * width)
    hidden = np.maximum(w1.T @ z + b1, 0)
    s = 1 / (1 + np.exp(-(w2.T @ hidden + b2)))
    return np.stack([s[c] * x[..., c] for c in range(channels)], axis=-1), s


def random_block(shape, **fields):
    """A block with random parameters, biases included, and an input for it."""
    block = SqueezeExcite(**fields)
    x = jax.random.normal(jax.random.key(0), shape)
    params = block.init(jax.random.key(1), x)["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return block, jax.tree.unflatten(structure, leaves), x


@pytest.mark.parametrize(("channels", "reduction", "width"), [(32, 16, 2), (32, 4, 8), (8, 16, 1)])
def test_equals_the_papers_equations(channels, reduction, width):
    block, params, x = random_block((3, 5, 4, channels), reduction=reduction)
    y, sown = block.apply({"params": params}, x, mutable="intermediates")
    (gate,) = sown["intermediates"]["excitation"]

    assert params["reduce"]["kernel"].shape == (channels, width)
    arrays = [
        np.asarray(params[layer][kind], np.float64)
        for layer in ("reduce", "expand")
        for kind in ("kernel", "bias")
    ]
    for image, output, image_gate in zip(np.asarray(x, np.float64), y, gate, strict=True):
        expected, expected_gate = paper_equations(image, *arrays)
        np.testing.assert_allclose(output, expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(image_gate, expected_gate, rtol=2e-5)


@pytest.mark.parametrize(
    ("shape", "spatial_dims", "gate_shape"),
    [
        ((6, 6, 16), 2, (16,)),
        ((2, 3, 6, 6, 16), 2, (2, 3, 16)),
        ((2, 36, 16), 1, (2, 16)),
        ((2, 3, 4, 3, 16), 3, (2, 16)),
    ],
)
def test_takes_any_batch_axes_and_any_number_of_spatial_axes(shape, spatial_dims, gate_shape):
    block, params, x = random_block(shape, reduction=4, spatial_dims=spatial_dims)
    y, sown = block.apply({"params": params}, x, mutable="intermediates")
    assert sown["intermediates"]["excitation"][0].shape == gate_shape

    # Every input is a batch of maps [positions, 1, c]; as such it must give the same.
    batch = int(np.prod(gate_shape[:-1]))
    maps = x.reshape(batch, -1, 1, 16)
    expected = SqueezeExcite(reduction=4).apply({"params": params}, maps)
    np.testing.assert_allclose(y, expected.reshape(shape), rtol=1e-6, atol=1e-6)


def test_computes_in_bfloat16_but_pools_in_float32():
    # Summed in bfloat16, 128 * 128 ones stop growing at 256.
    block, params, _ = random_block((1, 2, 2, 16), reduction=4)
    x = jnp.ones((1, 128, 128, 16), jnp.bfloat16)
    y, sown = block.apply({"params": params}, x, mutable="intermediates")
    expected = block.apply({"params": params}, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert sown["intermediates"]["excitation"][0].dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.03, atol=0.01)


def test_parameters_stay_float32_in_bfloat16():
    variables = SqueezeExcite().init(jax.random.key(0), jnp.ones((1, 4, 4, 32), jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_parameters_have_the_requested_type_and_initial_values():
    def constant(key, shape, dtype):
        assert len(shape) == 2
        return jnp.full(shape, 0.5, dtype)

    block = SqueezeExcite(variant="bump", param_dtype=jnp.bfloat16, kernel_init=constant)
    variables = block.init(jax.random.key(0), jnp.ones((1, 4, 4, 32)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}
    for layer in variables["params"].values():
        assert np.all(layer["kernel"] == 0.5)
        assert np.all(layer["bias"] == 0)


def test_kernels_start_with_variance_1_over_their_inputs():
    block = SqueezeExcite(reduction=2)
    params = block.init(jax.random.key(0), jnp.ones((1, 2, 2, 256)))["params"]
    assert float(jnp.var(params["reduce"]["kernel"])) == pytest.approx(1 / 256, rel=0.05)
    assert float(jnp.var(params["expand"]["kernel"])) == pytest.approx(1 / 128, rel=0.05)


def test_refuses_an_input_without_positions():
    with pytest.raises(ValueError, match=r"at least 3 axes.*shape \(4, 16\)"):
        SqueezeExcite().init(jax.random.key(0), jnp.ones((4, 16)))


def dense(params, layer, x):
    return x @ params[layer]["kernel"] + params[layer]["bias"]


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("hard_sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
    ],
)
@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_squeeze_and_gate_are_the_operators_that_their_names_say(squeeze, gate, expected):
    block, params, x = random_block((3, 5, 4, 16), reduction=4, squeeze=squeeze, gate=gate)
    pooled = {"avg": np.mean, "max": np.max}[squeeze](np.asarray(x), axis=(1, 2))
    hidden = np.maximum(dense(params, "reduce", pooled), 0)
    gates = expected(dense(params, "expand", hidden))
    y = block.apply({"params": params}, x)
    np.testing.assert_allclose(y, x * gates[:, None, None], rtol=1e-4, atol=1e-5)


def test_without_squeeze_each_position_has_its_own_gate():
    block, params, x = random_block((2, 3, 4, 16), reduction=4, squeeze="none")
    y, sown = block.apply({"params": params}, x, mutable="intermediates")
    gates = 1 / (1 + np.exp(-dense(params, "expand", np.maximum(dense(params, "reduce", x), 0))))
    assert sown["intermediates"]["excitation"][0].shape == x.shape
    np.testing.assert_allclose(y, x * gates, rtol=1e-4, atol=1e-5)


# Widths between the input and the gate for 64 channels and r = 16, from the descriptions in
# section 4 of arXiv:2304.06502.
@pytest.mark.parametrize(
    ("make", "widths"),
    [
        (SqueezeExcite, [4]),
        (SlowSqueezeExcite, [8, 4]),
        (SqueezeSlowExcite, [4, 8]),
        (SlowSqueezeSlowExcite, [8, 4, 8]),
        (Bump, [4, 4]),
    ],
)
def test_variants_have_the_layers_of_their_paper(make, widths):
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 64))
    block = make(reduction=16)
    params = block.init(jax.random.key(1), x)["params"]
    layers = ["reduce", *(f"hidden{i}" for i in range(2, len(widths) + 1)), "expand"]
    assert sorted(params) == sorted(layers)
    assert [params[layer]["kernel"].shape[1] for layer in layers] == [*widths, 64]
    y = np.mean(x, axis=(1, 2))
    for layer in layers[:-1]:
        y = np.maximum(dense(params, layer, y), 0)
    gates = 1 / (1 + np.exp(-dense(params, "expand", y)))
    np.testing.assert_allclose(
        block.apply({"params": params}, x), x * gates[:, None, None], rtol=1e-5, atol=1e-6
    )


# Where r does not divide c, c // (r // 2) is not twice c // r.
@pytest.mark.parametrize(
    ("channels", "fields", "widths"),
    [
        (24, {"reduction": 16}, [3, 1, 3]),
        (40, {"reduction": 16}, [5, 2, 5]),
        (30, {"reduction": 5}, [15, 6, 15]),
        (8, {"reduction": 16}, [1, 1, 1]),
        (4, {"reduction": 16}, [1, 1, 1]),
        (16, {"reduction": 1}, [16, 16, 16]),
        (48, {"reduction": 16, "expansion": 2}, [3, 1, 3]),
        (24, {"width": 5}, [10, 5, 10]),
        (8, {"width": 5}, [8, 5, 8]),
        (4, {"width": 5}, [5, 5, 5]),
    ],
)
def test_the_slow_variants_go_through_a_width_of_half_the_reduction(channels, fields, widths):
    block = SlowSqueezeSlowExcite(**fields)
    params = block.init(jax.random.key(0), jnp.ones((1, 2, 2, channels)))["params"]
    layers = ("reduce", "hidden2", "hidden3")
    assert [params[layer]["kernel"].shape[1] for layer in layers] == widths


def test_the_bottleneck_can_be_given_by_its_width_and_have_no_biases():
    x = jnp.ones((1, 2, 2, 16))
    params = SqueezeExcite(width=5, use_bias=False).init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "reduce": {"kernel": (16, 5)},
        "expand": {"kernel": (5, 16)},
    }


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("squeeze", "mean", "avg, max, none"),
        ("gate", "sigmoidal", 'mean "sigmoid"'),
        ("variant", "bumpy", 'mean "bump"'),
        ("reduction", 0, "at least 1, not 0"),
        ("width", 2.5, "at least 1, not 2.5"),
        ("expansion", 0, "at least 1, not 0"),
    ],
)
def test_an_unknown_value_of_a_field_is_reported(field, value, words):
    with pytest.raises(ValueError, match=words):
        SqueezeExcite(**{field: value})
