"""The networks equal those of independent implementations."""

import jax
import numpy as np
import pytest

from se_flax import create_model
from se_flax.models import model_info
from se_flax.pretrained.convert import convert
from se_flax.pretrained.layouts import layouts_of

pytestmark = pytest.mark.references

REFERENCES = {
    "resnet18": "torchvision:resnet18",
    "resnet34": "torchvision:resnet34",
    "resnet50": "torchvision:resnet50",
    "resnet101": "torchvision:resnet101",
    "resnet152": "torchvision:resnet152",
    "resnext50_32x4d": "torchvision:resnext50_32x4d",
    "resnext101_32x4d": "timm:resnext101_32x4d",
    "se_resnet50": "timm:seresnet50",
    "se_resnet101": "timm:seresnet101",
    "se_resnet152": "timm:seresnet152",
    "se_resnext50_32x4d": "timm:seresnext50_32x4d",
    "se_resnext101_32x4d": "timm:seresnext101_32x4d",
    "resnet101_caffe": "pretrainedmodels:cafferesnet101",
    "se_resnet50_caffe": "pretrainedmodels:se_resnet50",
    "se_resnet101_caffe": "timm:legacy_seresnet101",
    "se_resnet152_caffe": "timm:legacy_seresnet152",
    "se_resnext50_32x4d_caffe": "pretrainedmodels:se_resnext50_32x4d",
    "se_resnext101_32x4d_caffe": "timm:legacy_seresnext101_32x4d",
    "senet154": "timm:legacy_senet154",
}


@pytest.mark.parametrize(("name", "reference"), REFERENCES.items())
def test_equals_its_reference(name, reference, record_property):
    from tests.references import torch_models

    info = model_info(name)
    # Odd, so that every rounding of a size counts, and small, for speed; but the heads of
    # pretrainedmodels take no size but the published one.
    size = info.input_size if "pretrainedmodels" in reference else min(info.input_size, 129)
    theirs = torch_models.randomise(torch_models.build(reference), size)
    tensors = torch_models.tensors(theirs)
    ours = create_model(name)
    variables = convert(tensors, ours, size, layouts_of(name))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert parameters == sum(parameter.numel() for parameter in theirs.parameters())

    images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    expected = torch_models.logits(theirs, images)
    logits = jax.jit(lambda variables, images: ours.apply(variables, images))(variables, images)
    deviation = np.max(np.abs(logits - expected)) / np.max(np.abs(expected))
    record_property("deviation", f"{deviation:.1e}")
    print(f"{name} = {reference}, {parameters:,} parameters, deviation {deviation:.1e}")
    assert deviation < 1e-4
    assert np.std(expected) > 1e-3  # of logits that say nothing, equality would say nothing
