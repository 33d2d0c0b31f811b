"""The networks equal independent implementations of them."""

import pytest

from tests.references import comparison

pytestmark = pytest.mark.references


# What takes longest, where another network of the family is compared in any case.
SLOW = {
    *comparison.AT_TWO_SIZES,
    *((f"resnet{depth}", f"torchvision:resnet{depth}") for depth in (101, 152)),
    ("resnext101_32x4d", "timm:resnext101_32x4d"),
    *((f"se_resnet{depth}", f"timm:seresnet{depth}") for depth in (101, 152)),
    *((f"se_resnet{depth}_caffe", f"timm:legacy_seresnet{depth}") for depth in (101, 152)),
    ("se_resnext101_32x4d", "timm:seresnext101_32x4d"),
    ("se_resnext101_32x4d_caffe", "timm:legacy_seresnext101_32x4d"),
    ("vgg16", "torchvision:vgg16"),
    ("inception_resnet_v2", "timm:inception_resnet_v2"),
    *((f"efficientnet_b{i}", f"timm:tf_efficientnet_b{i}") for i in range(2, 8)),
    ("efficientnet_b5_timm", "timm:efficientnet_b5"),
    *((f"resnet{depth}_cifar", f"chenyaofo:resnet{depth}") for depth in (32, 44, 56)),
    *((f"resnet{depth}_cifar", f"akamaster:resnet{depth}") for depth in (32, 44)),
    *((f"{se}resnet164_cifar", f"pytorchcv:{se[:2]}resnet164bn") for se in ("", "se_")),
}
SLOW_IN_TRAINING = {
    *comparison.AT_TWO_SIZES,
    ("vgg16_bn", "torchvision:vgg16_bn"),
    ("inception_resnet_v2", "timm:inception_resnet_v2"),
    ("efficientnet_b0_torch", "torchvision:efficientnet_b0"),
}
QUICK_IN_TRAINING = {("resnet50d", "timm:resnet50d"), ("skresnet18", "timm:skresnet18")}
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
    ("name", "reference"), marked(comparison.TRAINED, SLOW_IN_TRAINING - QUICK_IN_TRAINING)
)
def test_equals_its_reference_in_training(name, reference):
    result = comparison.compare_training(name, reference)
    assert result.logits < 1e-4
    assert result.batch_stats < 1e-4
    assert result.gradients < 1e-4
