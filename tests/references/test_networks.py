"""The networks equal independent implementations of them."""

import pytest

from tests.references import comparison

pytestmark = pytest.mark.references


# What takes longest, where another network of the family is compared in any case.
SLOW = {
    *comparison.AT_TWO_SIZES,
    ("resnet152", "torchvision:resnet152"),
    ("se_resnet152", "timm:seresnet152"),
    ("se_resnet152_caffe", "timm:legacy_seresnet152"),
    *((f"efficientnet_b{i}", f"timm:tf_efficientnet_b{i}") for i in (2, 3, 4, 5, 6)),
}
QUICK = {
    ("mobilenet_v1", "timm:mobilenetv1_100"),
    ("mobilenet_v3_large_torch", "torchvision:mobilenet_v3_large"),
    ("efficientnet_v2_s_torch", "torchvision:efficientnet_v2_s"),
    ("regnet_y_400mf", "torchvision:regnet_y_400mf"),
    ("resnet50d", "timm:resnet50d"),
    ("skresnet18", "timm:skresnet18"),
}


def marked(pairs, slow):
    return [pytest.param(*pair, marks=[pytest.mark.slow] * (pair in slow)) for pair in pairs]


@pytest.mark.parametrize(("name", "reference"), marked(comparison.REFERENCES, SLOW - QUICK))
def test_equals_its_reference(name, reference):
    result = comparison.compare(name, reference)
    assert result.parameters == result.their_parameters
    assert result.logits < 1e-4
    assert result.spread > 1e-3


@pytest.mark.parametrize(
    ("name", "reference"), marked(comparison.TRAINED, {*comparison.AT_TWO_SIZES} - QUICK)
)
def test_equals_its_reference_in_training(name, reference):
    result = comparison.compare_training(name, reference)
    assert result.logits < 1e-4
    assert result.batch_stats < 1e-4
    assert result.gradients < 1e-4
