import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.burden import burden
from se_flax.errors import UserError
from se_flax.layers.batch_norm import BatchNorm
from se_flax.layers.selective_kernel import SelectiveKernel


def convolution(x, kernel, bias, stride, dilation, groups):
    """Convolves [h, w, i] with [k, k, i / groups, o], position by position."""
    k, outputs = kernel.shape[0], kernel.shape[-1]
    margin = dilation * (k // 2)
    padded = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
    y = np.zeros((-(-x.shape[0] // stride), -(-x.shape[1] // stride), outputs))
    for i, j, o in np.ndindex(y.shape):
        first = o // (outputs // groups) * kernel.shape[2]
        rows, columns = (slice(p * stride, p * stride + 2 * margin + 1, dilation) for p in (i, j))
        window = padded[rows, columns, first : first + kernel.shape[2]]
        y[i, j, o] = np.sum(window * kernel[..., o]) + bias[o]
    return y


def by_the_equations(params, x, sizes, dilate, split, stride, groups):
    """Computes the paper's equations for one image, with biases and without batch norm."""
    maps = []
    for m, size in enumerate(sizes):
        share = x.shape[-1] // len(sizes)
        part = x[..., m * share : (m + 1) * share] if split else x
        dilation = (size - 1) // 2 if dilate else 1
        layer = params[f"conv{m + 1}"]
        y = convolution(part, layer["kernel"], layer["bias"], stride, dilation, groups)
        maps.append(np.maximum(y, 0))
    z = sum(maps).mean((0, 1))
    t = np.maximum(z @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
    scores = (t @ params["select"]["kernel"]).reshape(len(sizes), -1)
    gates = np.exp(scores) / np.exp(scores).sum(0)
    return sum(gate * y for gate, y in zip(gates, maps, strict=True))


@pytest.mark.parametrize(
    ("fields", "stride", "groups"),
    [
        ({}, 1, 1),
        ({"dilate": False}, 2, 2),
        ({"kernel_sizes": (3, 5, 7)}, 2, 1),
        ({"split_input": True}, 1, 3),
    ],
)
def test_output_is_that_of_the_papers_equations(fields, stride, groups):
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 12)).astype(np.float32)
    block = SelectiveKernel(width=7, **fields)
    call = {"features": 6, "strides": stride, "feature_group_count": groups}
    variables = block.init(jax.random.key(0), jnp.asarray(x), **call)
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda p: random.standard_normal(p.shape), variables["params"])
    output = block.apply({"params": params}, jnp.asarray(x), **call)
    sizes = block.kernel_sizes
    expected = [
        by_the_equations(params, image, sizes, block.dilate, block.split_input, stride, groups)
        for image in x
    ]
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-3)


def test_each_channel_has_gates_that_sum_to_one_and_are_sown():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 8))
    block = SelectiveKernel(kernel_sizes=(3, 5, 7))
    _, variables = block.init_with_output(jax.random.key(1), x)
    _, state = block.apply(variables, x, mutable=["intermediates"])
    (selection,) = state["intermediates"]["selection"]
    (excitation,) = state["intermediates"]["excitation"]
    assert selection.shape == (2, 3, 8)
    np.testing.assert_allclose(selection.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(excitation, selection[:, 2])
    assert np.std(selection) > 0.01


@pytest.mark.parametrize(
    ("c", "fields", "d"), [(64, {}, 32), (1024, {}, 64), (64, {"width": 5}, 5)]
)
def test_the_bottleneck_has_the_papers_width(c, fields, d):
    x = jax.ShapeDtypeStruct((1, 3, 3, c), jnp.float32)
    variables = jax.eval_shape(lambda x: SelectiveKernel(**fields).init(jax.random.key(0), x), x)
    assert variables["params"]["reduce"]["kernel"].shape == (c, d)


class InPlaceOfConvolution(nn.Module):
    """A selective kernel with batch norms, or a 3x3 convolution with one."""

    selective: bool
    fields: dict

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(BatchNorm, use_running_average=not train)
        if self.selective:
            block = SelectiveKernel(width=4, norm=norm, **self.fields)
            return block(x, features=16, strides=2, feature_group_count=2)
        conv = nn.Conv(16, (3, 3), 2, padding=1, feature_group_count=2, use_bias=False)
        return norm()(conv(x))


@pytest.mark.parametrize(
    ("fields", "m", "positions_of_kernels"),
    [({}, 2, 18), ({"kernel_sizes": (3, 5, 7)}, 3, 27), ({"dilate": False}, 2, 9 + 25)],
)
def test_it_costs_what_its_docstring_says(fields, m, positions_of_kernels):
    i, c, g, d, h = 12, 16, 2, 4, 6
    counted = burden(InPlaceOfConvolution(True, fields), h, channels=i)
    weights = positions_of_kernels * i * c // g
    assert counted.parameters == weights + 2 * m * c + (m + 1) * c * d + 2 * d
    assert counted.multiply_adds == weights * (h // 2) ** 2 + (m + 1) * c * d
    plain = burden(InPlaceOfConvolution(False, {}), h, channels=i)
    assert plain.parameters == 9 * i * c // g + 2 * c
    assert plain.multiply_adds == 9 * i * c // g * (h // 2) ** 2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_keeps_the_shape_and_type_of_a_map(dtype):
    x = jax.ShapeDtypeStruct((2, 3, 5, 4, 32), dtype)
    block = SelectiveKernel()
    y, variables = jax.eval_shape(lambda x: block.init_with_output(jax.random.key(0), x), x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("sizes", [(3,), (1, 3), (3, 4), (3, "5"), 3])
def test_kernels_that_are_not_two_or_more_odd_sizes_are_refused(sizes, wrong_types):
    with pytest.raises(UserError, match="kernel_sizes must be two or more odd numbers"):
        SelectiveKernel(kernel_sizes=sizes)


def test_channels_that_kernels_cannot_share_and_other_inputs_are_refused(wrong_types):
    block = SelectiveKernel(kernel_sizes=(3, 5, 7), split_input=True)
    with pytest.raises(UserError, match="that 3 kernels can share, not 4"):
        block.init(jax.random.key(0), jnp.zeros((1, 5, 5, 4)))
    with pytest.raises(UserError, match=r"must stand after.*not.*\[4, 16\]"):
        SelectiveKernel().init(jax.random.key(0), jnp.ones((4, 16)))
    with pytest.raises(UserError, match="min_width must be a whole number"):
        SelectiveKernel(min_width=0)
