"""Weights that are not the network's are refused."""

import jax
import numpy as np
import pytest

from se_flax import create_model
from se_flax.errors import UserError
from se_flax.pretrained.convert import convert
from se_flax.pretrained.layouts import layouts_of

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def tensors():
    from tests.references import torch_models

    return torch_models.tensors(torch_models.build("timm:seresnet50"))


def converted(tensors, name="se_resnet50", num_classes=1000, **options):
    return convert(tensors, create_model(name, num_classes), 64, layouts_of(name), **options)


def test_missing_unexpected_and_misshapen_tensors_are_listed(tensors):
    changed = {**tensors, "layer5.0.conv1.weight": np.zeros((1, 1, 1, 1))}
    del changed["layer1.0.se.fc1.bias"]
    changed["conv1.weight"] = changed["conv1.weight"][:, :1]
    with pytest.raises(UserError) as error:
        converted(changed)
    for words in (
        "1 missing (layer1.0.se.fc1.bias)",
        "1 left over (layer5.0.conv1.weight)",
        "conv1.weight [7, 7, 1, 64] not [7, 7, 3, 64]",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("name", ["resnet50", "se_resnet101", "se_resnet50_caffe"])
def test_weights_of_another_network_are_refused(tensors, name):
    with pytest.raises(UserError, match="do not fit the network"):
        converted(tensors, name)


def test_another_number_of_classes_is_refused_unless_a_new_head_is_requested(tensors):
    with pytest.raises(UserError, match=r"fc.weight \[2048, 1000\] not \[2048, 7\]"):
        converted(tensors, num_classes=7)
    ours = converted(tensors, num_classes=7, new_head=True)
    assert ours["params"]["classifier"]["kernel"].shape == (2048, 7)
    body = converted(tensors)["params"]
    body.pop("classifier")
    ours["params"].pop("classifier")
    jax.tree.map(np.testing.assert_array_equal, ours["params"], body)


def test_an_auxiliary_classifier_is_new_with_the_head_and_ignored_where_there_is_none():
    from tests.references import torch_models

    tensors = torch_models.tensors(torch_models.build("torchvision:inception_v3"))
    layouts = layouts_of("inception_v3")
    ours = convert(tensors, create_model("inception_v3", 7), 299, layouts, new_head=True)
    for head in ("classifier", "auxiliary_classifier"):
        assert ours["params"][head]["kernel"].shape[-1] == 7
    ours = convert(tensors, create_model("inception_v3", auxiliary=False), 75, layouts)
    assert not [name for name in ours["params"] if "auxiliary" in name]


def test_an_auxiliary_classifier_that_the_weights_lack_is_new_but_must_not_lack_a_part():
    from tests.references import torch_models

    tensors = torch_models.tensors(torch_models.build("torchvision:inception_v3"))
    layouts, model = layouts_of("inception_v3"), create_model("inception_v3")
    without = {name: x for name, x in tensors.items() if not name.startswith("AuxLogits")}
    ours = convert(without, model, 299, layouts)["params"]
    whole = convert(tensors, model, 299, layouts)["params"]
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, whole)
    np.testing.assert_array_equal(ours["classifier"]["kernel"], whole["classifier"]["kernel"])
    assert np.std(ours["auxiliary_classifier"]["kernel"]) > 0
    del tensors["AuxLogits.conv0.conv.weight"]
    with pytest.raises(UserError, match=r"1 missing \(AuxLogits.conv0.conv.weight\)"):
        convert(tensors, model, 299, layouts)
