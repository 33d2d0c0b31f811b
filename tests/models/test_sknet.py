import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import add_se, create_model
from se_flax.config import build_model, check_config, default_config
from se_flax.errors import UserError
from tests.models.test_base import FAMILIES

SMALL = {"stage_sizes": (1, 2), "widths": (16, 32)}
WITHOUT = sorted(set(FAMILIES) - {"resnet18", "resnet50", "resnetrs50"})


def shapes(name, **fields):
    model = create_model(name, **fields)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))


# Millions, from timm's results-imagenet.csv. The last is SKNet-50, 27.5 in the paper's table 2.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("skresnet18", 11.96), ("skresnet34", 22.28), ("skresnext50_32x4d", 27.48)],
)
def test_sknets_have_the_published_number_of_parameters(name, millions):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name)["params"]))
    assert round(count / 1e6, 2) == millions
    assert shapes(f"se_{name}") == shapes(name)


def test_without_its_selective_kernels_an_sknet_is_a_resnet():
    assert shapes("skresnet18", se=None) == shapes("resnet18")
    assert shapes("skresnext50_32x4d", se=None) == shapes("resnext50_32x4d")
    assert shapes("resnext50_32x4d", se="sk") == shapes("skresnext50_32x4d")


@pytest.mark.parametrize(
    ("name", "conv"),
    [
        ("resnet20_cifar", "1"),
        ("resnext50_32x4d", "2"),
        *(
            pytest.param(name, conv, marks=pytest.mark.slow)
            for name, conv in [("resnet18", "1"), ("resnet50_caffe", "2"), ("resnet50d", "2")]
        ),
    ],
)
def test_with_all_gates_on_the_3x3_kernel_a_network_equals_the_plain_one(name, conv):
    plain = create_model(name, 10, **SMALL)
    selective = create_model(name, 10, se="sk", **SMALL)
    x = jax.random.normal(jax.random.key(0), (2, 33, 47, 3))
    variables = jax.jit(selective.init)(jax.random.key(1), x)
    expected = jax.jit(plain.init)(jax.random.key(2), x)
    flat = flax.traverse_util.flatten_dict(variables)
    replaced = 0
    for path, value in flax.traverse_util.flatten_dict(expected).items():
        *before, layer, leaf = path
        in_unit = "unit" in before[-1] and layer in (f"conv{conv}", f"bn{conv}")
        ours = (*before, "sk", layer[:-1] + "1", leaf) if in_unit else path
        replaced += in_unit
        assert flat[ours].shape == value.shape
        flat[ours] = value
    assert replaced == 3 * 5  # the kernel, and four of the batch norm
    for path, value in flat.items():
        if path[-2:] == ("reduce_bn", "scale"):  # t is 1 for all images
            flat[path] = 0 * value
        elif path[-2:] == ("reduce_bn", "bias"):
            flat[path] = 0 * value + 1
        elif path[-2:] == ("select", "kernel"):
            of_first = jnp.arange(value.shape[1]) < value.shape[1] // 2
            flat[path] = jnp.where(of_first, 9.0, 0.0 * value)
    variables = flax.traverse_util.unflatten_dict(flat)
    np.testing.assert_allclose(
        jax.jit(selective.apply)(variables, x),
        jax.jit(plain.apply)(expected, x),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_other_layers_have_the_plain_networks_initial_values():
    plain, selective = (
        create_model("resnet20_cifar", 10, **SMALL, **fields) for fields in ({}, {"se": "sk"})
    )
    x = jnp.zeros((1, 8, 8, 3))
    expected, actual = (
        flax.traverse_util.flatten_dict(jax.jit(model.init)(jax.random.key(0), x)["params"])
        for model in (plain, selective)
    )
    shared = [path for path in actual if "sk" not in path]
    assert len(shared) > 10
    for path in shared:
        np.testing.assert_array_equal(actual[path], expected[path])


def test_fields_of_the_kernel_and_its_stages_are_those_of_the_network():
    params = shapes("resnet18", se="sk", se_stages=(2,), kernel_sizes=(3, 5, 7), width=5, **SMALL)
    units = {name for name, unit in params["params"].items() if "sk" in unit}
    assert units == {"stage2_unit1", "stage2_unit2"}
    kernel = params["params"]["stage2_unit1"]["sk"]
    assert kernel["select"]["kernel"].shape == (5, 3 * 32)
    with pytest.raises(UserError, match='no field "features"'):
        create_model("resnet18", se="sk", features=8)
    with pytest.raises(UserError, match='se_placement="pre" does not apply'):
        create_model("resnet18", se="sk", se_placement="pre")


@pytest.mark.parametrize("name", WITHOUT)
def test_networks_without_a_place_for_it_refuse_it(name):
    with pytest.raises(UserError, match=r'only in the residual units .* for example "resnet50"'):
        create_model(name, se="sk", **FAMILIES[name])


def test_it_cannot_be_added_after_a_layer():
    with pytest.raises(UserError, match="SelectiveKernel stands in place of a convolution"):
        add_se(create_model("resnet18"), "stage1_unit1", se="sk")


def test_a_config_chooses_it_by_name():
    config = default_config()
    config.model.name = "resnet20_cifar"
    config.model.overrides.update({"se": "sk", "min_width": 8})
    check_config(config)
    model = build_model(config, num_classes=10)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert params["params"]["stage1_unit1"]["sk"]["reduce"]["kernel"].shape == (16, 8)
    config.model.name = "se_mobilenet_v2"
    with pytest.raises(UserError, match="can stand only"):
        check_config(config)
