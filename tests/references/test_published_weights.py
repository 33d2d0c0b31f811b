"""Files like those of the catalogue give the logits of the network that they were written from."""

import pytest

from se_flax.pretrained.catalogue import catalogue

pytestmark = pytest.mark.references

# One of each family; `python -m tests.references.published_weights` compares all entries.
REPRESENTATIVES = (
    "timm/resnet18.tv_in1k",
    "timm/seresnext50_32x4d.gluon_in1k",
    "timm/legacy_seresnet50.in1k",
    "timm/vgg16.tv_in1k",
    "timm/vgg16_bn.tv_in1k",
    "timm/inception_v3.tv_in1k",
    "timm/tf_efficientnet_b0.aa_in1k",
    "timm/efficientnet_b0.ra_in1k",
)


@pytest.mark.parametrize("source", REPRESENTATIVES)
def test_a_file_as_on_the_hub_gives_its_networks_logits(source):
    from tests.references.published_weights import ODD, compare_weights

    (weights,) = [weights for weights in catalogue() if weights.source == source]
    for deviation, spread in compare_weights(weights, [(128, 128), ODD]):
        assert deviation < 1e-4
        assert spread > 1e-3
