"""The networks equal those of independent implementations."""

import functools

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
    "vgg16": "torchvision:vgg16",
    "vgg16_bn": "torchvision:vgg16_bn",
    "bn_inception": "pretrainedmodels:bninception",
    "inception_v3": "torchvision:inception_v3",
    "inception_resnet_v2": "timm:inception_resnet_v2",
    **{f"efficientnet_b{i}": f"timm:tf_efficientnet_b{i}" for i in range(8)},
}

# Second references, or in other forms: fields of our network that are not the published ones.
MORE_REFERENCES = [
    ("inception_v3", "timm:inception_v3", {"auxiliary": False}),
    ("inception_resnet_v2", "pretrainedmodels:inceptionresnetv2", {}),
]


@pytest.mark.parametrize(
    ("name", "reference", "fields"),
    [*((name, reference, {}) for name, reference in REFERENCES.items()), *MORE_REFERENCES],
)
def test_equals_its_reference(name, reference, fields, record_property):
    from tests.references import torch_models

    info = model_info(name)
    # Odd, so that every rounding of a size counts, and small, for speed; but the heads of
    # pretrainedmodels and auxiliary classifiers take no size but the published one.
    published_size = "pretrainedmodels" in reference or reference == "torchvision:inception_v3"
    # Where TensorFlow pads, it is even sizes that it pads unevenly.
    small = 128 if "timm:tf_" in reference else 129
    size = info.input_size if published_size else min(info.input_size, small)
    theirs = torch_models.randomise(torch_models.build(reference), size)
    tensors = torch_models.tensors(theirs)
    ours = create_model(name, **fields)
    variables = convert(tensors, ours, size, layouts_of(name))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert parameters == sum(parameter.numel() for parameter in theirs.parameters())

    images = np.random.default_rng(0).standard_normal((1, size, size, 3), np.float32)
    expected = torch_models.logits(theirs, images)
    logits = jax.jit(lambda variables, images: ours.apply(variables, images))(variables, images)
    deviation = np.max(np.abs(logits - expected)) / np.max(np.abs(expected))
    record_property("deviation", f"{deviation:.1e}")
    print(f"{name} = {reference}, {parameters:,} parameters, deviation {deviation:.1e}")
    assert deviation < 1e-4
    assert np.std(expected) > 1e-3  # of logits that say nothing, equality would say nothing


def test_auxiliary_logits_in_training_equal_torchvisions():
    from tests.references import torch_models

    theirs = torch_models.randomise(torch_models.build("torchvision:inception_v3"), 299)
    tensors = torch_models.tensors(theirs)
    ours = create_model("inception_v3", dropout=0.0)
    variables = convert(tensors, ours, 299, layouts_of("inception_v3"))

    images = np.random.default_rng(0).standard_normal((4, 299, 299, 3), np.float32)
    theirs.train().dropout.p = 0.0
    expected = torch_models.outputs(theirs, images)
    logits, state = jax.jit(
        lambda variables, images: ours.apply(
            variables, images, train=True, mutable=["batch_stats", "intermediates"]
        )
    )(variables, images)
    (auxiliary,) = state["intermediates"]["auxiliary_logits"]
    for name, actual, wanted in (
        ("logits", logits, expected.logits.numpy()),
        ("auxiliary_logits", auxiliary, expected.aux_logits.numpy()),
    ):
        deviation = np.max(np.abs(actual - wanted)) / np.max(np.abs(wanted))
        print(f"inception_v3 in training, {name}: deviation {deviation:.1e}")
        assert deviation < 1e-3  # batch statistics of 4 images magnify rounding
        assert np.std(wanted) > 1e-3


def test_efficientnet_equals_its_reference_in_training():
    from tests.references import torch_models

    theirs = torch_models.randomise(torch_models.build("timm:tf_efficientnet_b0"), 64)
    ours = create_model("efficientnet_b0", dropout=0.0, stochastic_depth=0.0)
    variables = convert(torch_models.tensors(theirs), ours, 64, layouts_of("efficientnet_b0"))
    images = np.random.default_rng(0).standard_normal((8, 64, 64, 3), np.float32)
    expected = torch_models.logits(theirs.train(), images)
    train = functools.partial(ours.apply, train=True, mutable=["batch_stats"])
    logits, _ = jax.jit(train)(variables, images)
    assert np.max(np.abs(logits - expected)) / np.max(np.abs(expected)) < 1e-4
