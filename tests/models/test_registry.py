import jax
import jax.numpy as jnp
import pytest

import se_flax
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.models.registry import field_value


def test_every_backbone_has_an_se_form():
    names = se_flax.list_models()
    plain = [name for name in names if not name.startswith("se_")]
    assert sorted(plain + [f"se_{name}" for name in plain]) == names
    assert se_flax.list_models("se_resnet1?2*") == [
        "se_resnet152",
        "se_resnet152_caffe",
        "se_resnet152d",
    ]


def test_an_unknown_model_is_reported_with_the_nearest_name():
    with pytest.raises(UserError, match=r'no model "se_resnet20_cifra".*"se_resnet20_cifar"'):
        se_flax.create_model("se_resnet20_cifra")


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_a_rate_that_is_no_probability_below_one_is_refused(rate):
    with pytest.raises(
        UserError, match=f"stochastic_depth must be at least 0 and below 1, not {rate}"
    ):
        se_flax.create_model("efficientnet_b0", stochastic_depth=rate)


def test_an_unknown_override_is_reported_with_the_nearest_field():
    with pytest.raises(UserError, match=r'no field "stage_size".*"stage_sizes"'):
        se_flax.create_model("resnet18", stage_size=(1, 1, 1, 1))


def test_reduction_reaches_every_block():
    model = se_flax.create_model("se_resnet20_cifar", reduction=4)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    widths = [
        params[f"stage{i}_unit{j}"]["se"]["reduce"]["bias"].shape[0]
        for i in (1, 2, 3)
        for j in (1, 2, 3)
    ]
    assert widths == [4] * 3 + [8] * 3 + [16] * 3


def test_reduction_without_se_is_refused():
    with pytest.raises(UserError, match='without SE blocks; use "se_resnet18"'):
        se_flax.create_model("resnet18", reduction=4)
    with pytest.raises(UserError, match="reduction must be a whole number"):
        se_flax.create_model("se_resnet18", reduction=0)


def test_each_network_has_the_number_of_classes_it_was_published_for():
    assert model_info("se_resnet50").num_classes == 1000
    assert model_info("se_efficientnet_b7").num_classes == 1000
    for name in se_flax.list_models():
        if name.endswith("_cifar") or name.removeprefix("se_") in ("small_cnn", "cnn3"):
            assert model_info(name).num_classes == 10
        else:
            assert model_info(name).num_classes == 1000


def test_hints_to_blocks_are_not_fields_of_a_network():
    with pytest.raises(UserError, match='no field "expansion"'):
        se_flax.create_model("se_resnet18", expansion=2)


def test_the_value_of_a_field_is_that_of_the_built_network():
    for name, overrides, field, value in (
        ("se_resnet20_cifar", {}, "reduction", 16),
        ("se_resnet20_cifar", {"reduction": 4}, "reduction", 4),
        ("se_resnet20_cifar", {}, "zero_init", False),
        ("efficientnet_b0", {}, "reduction", 4),
        ("resnet20_cifar", {}, "reduction", None),
        ("se_resnet50_caffe", {}, "se_placement", "standard"),
        ("se_resnet50", {"se": "slow_squeeze"}, "reduction", 16),
    ):
        assert field_value(name, field, overrides) == value, (name, field)
