"""The attention blocks equal timm's layers, with the same weights, theirs in float64."""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.layers.batch_norm import BatchNorm
from se_flax.layers.blocks import BLOCKS
from se_flax.layers.selective_kernel import SelectiveKernel

torch = pytest.importorskip("torch")
layers = pytest.importorskip("tests.references.torch_models").timm.layers

pytestmark = pytest.mark.references

C = 32
SIZES = [(8, 8), (9, 7)]
NORM = functools.partial(BatchNorm, use_running_average=False)


def gather_excite(form, extent, size):
    """timm's block with the layers that its code intends.

    Its constructor fails for blocks with parameters, so they are put in here. In theta+ a ReLU
    precedes the dense layers, as in the authors' networks.
    """
    block = layers.gather_excite.GatherExcite(C, extent=extent, use_mlp=False)
    if form == "theta-":
        return block
    block.gather = torch.nn.Sequential()
    convolutions = max(1, extent.bit_length() - 1)
    for i in range(1, convolutions + 1):
        kernel = {"kernel_size": size} if extent == 0 else {"kernel_size": 3, "stride": 2}
        padding = {"padding": 0} if extent == 0 else {}
        conv = layers.create_conv2d(C, C, depthwise=True, **kernel, **padding)
        block.gather.add_module(f"conv{i}", conv)
        block.gather.add_module(f"norm{i}", torch.nn.BatchNorm2d(C))
        if i != convolutions or form == "theta+":
            block.gather.add_module(f"act{i}", torch.nn.ReLU())
    if form == "theta+":
        block.mlp = layers.mlp.ConvMlp(C, C // 16)
    return block


MLP = {"fc1": "reduce", "fc2": "expand"}
CBAM = {"channel.fc1": "reduce", "channel.fc2": "expand"}
CBAM |= {"spatial.conv.conv": "spatial_conv", "spatial.conv.bn": "spatial_bn"}
GC = {"conv_attn": "attend"}
GC |= {
    f"mlp_{kind}.{theirs}": ours
    for kind in ("add", "scale")
    for theirs, ours in {**MLP, "norm": "reduce_norm"}.items()
}
GE = {f"gather.conv{i}": f"gather_conv{i}" for i in (1, 2, 3)}
GE |= {f"gather.norm{i}": f"gather_bn{i}" for i in (1, 2, 3)}
GE |= {f"mlp.{theirs}": ours for theirs, ours in MLP.items()}

# Name and fields of ours; theirs, for a size; and our names of their layers.
CASES = [
    ("se", {"reduction": 4}, lambda size: layers.SEModule(C, rd_channels=8), MLP),
    ("ese", {}, lambda size: layers.EffectiveSEModule(C), {"fc": "expand"}),
    ("eca", {}, lambda size: layers.EcaModule(C), {"conv": "conv"}),
    ("eca", {"kernel_size": 5}, lambda size: layers.EcaModule(kernel_size=5), {"conv": "conv"}),
    ("cbam", {"norm": NORM}, lambda size: layers.cbam.CbamModule(C), CBAM),
    (
        *("cbam", {"norm": NORM, "kernel_size": 3, "reduction": 4, "use_bias": True}),
        lambda size: layers.cbam.CbamModule(
            C, rd_ratio=1 / 4, spatial_kernel_size=3, mlp_bias=True
        ),
        CBAM,
    ),
    *(
        ("gather_excite", {**norm, **fields}, functools.partial(gather_excite, **fields), GE)
        for norm, form, extents in [
            ({}, "theta-", (0, 2, 4)),
            ({"norm": NORM}, "theta", (0, 2, 8)),
            ({"norm": NORM}, "theta+", (0, 4)),
        ]
        for fields in [{"form": form, "extent": extent} for extent in extents]
    ),
    (
        *("global_context", {"reduction": 4, "layer_norm_epsilon": 1e-6}),
        lambda size: layers.global_context.GlobalContext(
            C, rd_ratio=1 / 4, fuse_add=True, fuse_scale=False
        ),
        GC,
    ),
    (
        *("global_context", {"fusion": "scale", "reduction": 8, "layer_norm_epsilon": 1e-6}),
        lambda size: layers.global_context.GlobalContext(C),
        GC,
    ),
]


def randomised(block):
    """Gives a block random weights, with scales around 1 and biases around 0."""
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(is_scale + 0.3 * torch.randn(parameter.shape))
    return block


def in_our_layout(tensors, names, shapes):
    """Returns tensors of timm's block as our parameters."""
    params = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        ours = names[layer]
        leaf = "bias" if kind == "bias" else "scale" if tensor.ndim == 1 else "kernel"
        expected = shapes[ours, leaf].shape
        axes = (*range(2, tensor.ndim), 1, 0) if tensor.ndim > 1 else (0,)
        params[ours, leaf] = np.transpose(tensor.detach().numpy(), axes).reshape(expected)
    assert params.keys() == shapes.keys()
    return flax.traverse_util.unflatten_dict(params)


def assert_close(ours, theirs, rounding=0.0):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max() + rounding)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "fields", "theirs", "names"),
    CASES,
    ids=["-".join(map(str, [c[0], *(v for v in c[1].values() if v != NORM)])) for c in CASES],
)
def test_output_and_gradients_in_training_equal_timms(name, fields, theirs, names, size):
    torch.manual_seed(0)
    assert_equal_in_training(BLOCKS[name](**fields), randomised(theirs(size=size)), names, size)


SK = {"attn.fc_reduce": "reduce", "attn.bn": "reduce_bn", "attn.fc_select": "select"}
SK |= {f"paths.{m}.{kind}": f"{kind}{m + 1}" for m in range(3) for kind in ("conv", "bn")}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fields", "call", "theirs"),
    [
        ({}, {}, {"rd_divisor": 32, "split_input": False}),
        ({"reduction": 2, "min_width": 8, "split_input": True}, {}, {"rd_ratio": 1 / 2}),
        (
            {"kernel_sizes": (3, 5, 7), "width": 6},
            {"features": 24, "strides": 2, "feature_group_count": 8},
            {
                "kernel_size": [3, 5, 7],
                "rd_channels": 6,
                "split_input": False,
                "out_channels": 24,
                "stride": 2,
                "groups": 8,
            },
        ),
        (
            {"dilate": False, "width": 6},
            {"strides": 2},
            {"keep_3x3": False, "rd_channels": 6, "split_input": False, "stride": 2},
        ),
    ],
    ids=["paper", "split_input", "three_kernels_in_groups", "5x5"],
)
def test_selective_kernels_in_training_equal_timms(fields, call, theirs, size):
    torch.manual_seed(0)
    block = randomised(layers.selective_kernel.SelectiveKernel(C, **theirs))
    assert_equal_in_training(SelectiveKernel(norm=NORM, **fields), block, SK, size, **call)


def assert_equal_in_training(ours, block, names, size, **call):
    """Compares output and gradients of our block, called with `call`, and timm's."""
    block = block.double().train()
    x = np.random.default_rng(0).standard_normal((4, *size, C)).astype(np.float32)
    images = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.double, requires_grad=True)
    expected = block(images)
    weights = np.random.default_rng(1).standard_normal(expected.permute(0, 2, 3, 1).shape)
    weights = weights.astype(np.float32)
    (expected * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()

    variables = ours.init(jax.random.key(0), jnp.asarray(x), **call)
    flat = flax.traverse_util.flatten_dict(variables.get("params", {}))
    params = in_our_layout(dict(block.named_parameters()), names, flat)
    assert sum(p.numel() for p in block.parameters()) == sum(p.size for p in flat.values())

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            state = {**variables, "params": params}
            y, _ = ours.apply(state, x, **call, mutable=["batch_stats"])
            return jnp.sum(y * weights), y

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    (of_params, of_x), y = gradients(params, x)
    assert_close(y, expected.detach().permute(0, 2, 3, 1))
    assert_close(of_x, images.grad.permute(0, 2, 3, 1))
    theirs_of_params = {name: p.grad for name, p in block.named_parameters()}
    expected_of_params = in_our_layout(theirs_of_params, names, flat)
    # The gradient of the bias before a softmax is 0; what is computed of it is rounding.
    rounding = 1e-7 * max(np.abs(leaf).max() for leaf in [x, *jax.tree.leaves(expected_of_params)])
    close = functools.partial(assert_close, rounding=rounding)
    jax.tree.map(close, of_params, expected_of_params)


@pytest.mark.parametrize("name", ["se", "ese", "eca", "gather_excite"])
def test_with_the_batch_norm_before_it_a_block_still_equals_timms(name):
    """These blocks are joined with batch norm, so that timm's pair is compared with one pass."""
    ((_, fields, theirs, names), *_) = (case for case in CASES if case[0] == name)
    torch.manual_seed(0)
    block = randomised(theirs(size=(9, 7)))
    pair = torch.nn.Sequential(torch.nn.BatchNorm2d(C), block).double().train()
    x = np.random.default_rng(0).standard_normal((4, 9, 7, C)).astype(np.float32) + 0.5
    weights = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    images = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.double, requires_grad=True)
    expected = pair(images)
    (expected * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()

    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            joined = BatchNorm(use_running_average=False, name="bn")
            return joined.rescaled(x, BLOCKS[name](name="block", **fields))

    variables = Pair().init(jax.random.key(0), jnp.asarray(x))
    flat = flax.traverse_util.flatten_dict(variables["params"].get("block", {}))
    params = {
        "bn": variables["params"]["bn"],
        "block": in_our_layout(dict(block.named_parameters()), names, flat),
    }

    def loss(x):
        y, _ = Pair().apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(y * weights), y

    of_x, y = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert_close(y, expected.detach().permute(0, 2, 3, 1))
    assert_close(of_x, images.grad.permute(0, 2, 3, 1))
