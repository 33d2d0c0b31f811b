"""Files like those of the catalogue give the logits of the network that they were written from."""

import pathlib

import pytest

from se_flax.pretrained.catalogue import catalogue

pytestmark = pytest.mark.references

# One of each family; `python -m tests.references.published_weights` compares all entries.
REPRESENTATIVES = (
    "timm/resnet18.tv_in1k",
    "timm/seresnext50_32x4d.gluon_in1k",
    "timm/legacy_seresnet50.in1k",
    "timm/vgg16_bn.tv_in1k",
    "timm/inception_v3.tv_in1k",
    "timm/tf_efficientnet_b0.aa_in1k",
    "timm/efficientnet_b0.ra_in1k",
)
FILES = (
    "resnet50-11ad3fa6.pth",
    "vgg16_bn-6c64b313.pth",
    "inception_v3_google-0cc3c7bd.pth",
    "efficientnet_b1-c27df63c.pth",
)
TABLE = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "pretrained_parity.md"


@pytest.mark.parametrize("source", REPRESENTATIVES)
def test_a_file_as_on_the_hub_gives_its_networks_logits(source):
    from tests.references.published_weights import ODD, compare_weights

    (weights,) = [weights for weights in catalogue() if weights.source == source]
    for deviation, spread in compare_weights(weights, [(128, 128), ODD]):
        assert deviation < 1e-4
        assert spread > 1e-3


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_torchvision_gives_its_networks_logits(file):
    from tests.references.published_weights import ODD, compare_weights

    (weights,) = [weights for weights in catalogue() if weights.file == file]
    # Smaller images are too small for the auxiliary classifier of torchvision's Inception-v3.
    size = weights.input_size if weights.model == "inception_v3" else 128
    for deviation, spread in compare_weights(weights, [(size, size), ODD]):
        assert deviation < 1e-4
        assert spread > 1e-3


def test_the_table_has_a_row_for_every_entry_for_imagenet():
    from tests.references.published_weights import imagenet_entries, row_start

    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    starts = ["|".join(row.split("|")[:4]) + "|" for row in rows]
    assert starts == [row_start(weights) for weights in imagenet_entries()]
    for row in rows:
        assert all(float(deviation) < 1e-4 for deviation in row.split("|")[4:6])
