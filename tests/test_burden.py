import functools

import flax.linen as nn
import jax.numpy as jnp
import pytest

from se_flax import add_se, create_model, list_models
from se_flax.burden import burden, published_burden
from se_flax.detection import create_detector
from se_flax.layers.cpu import residual_sum
from se_flax.models import model_info
from tests.models.test_base import is_large

PUBLISHED = [
    pytest.param(name, row, marks=[pytest.mark.slow] * is_large(name))
    for name in list_models()
    for row in published_burden(name)
    if "was not released" not in row["note"]
]


@functools.cache
def burden_of(name):
    fields = {"auxiliary": False} if name == "inception_v3" else {}
    return burden(create_model(name, **fields), model_info(name).input_size)


@pytest.mark.parametrize(("name", "row"), PUBLISHED)
def test_burdens_agree_with_published_ones(name, row):
    counted = burden_of(name)
    gmacs = counted.multiply_adds / 1e9
    if row["parameter_mb"]:
        assert round(counted.parameter_mb) == int(row["parameter_mb"])
        assert round(counted.feature_mb) == int(row["feature_mb"])
        # The published tool also counts biases and ReLUs, which add less than 0.5%.
        assert int(row["gmacs"]) in (round(gmacs), round(1.005 * gmacs))
    else:  # the paper counts a little more than convolutions and dense layers
        assert -0.005 < float(row["gmacs"]) - gmacs < 0.035


class Net(nn.Module):
    """A network whose burden can be worked out by hand."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), strides=2, name="conv1")(x)  # 8x8x8
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        y = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False)(y)
        x = residual_sum(x, y, nn.relu)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))  # 4x4x8
        x = jnp.concatenate([x, nn.swish(nn.Conv(4, (1, 1))(x))], axis=-1)
        return nn.Dense(10)(x.mean((1, 2)))


def test_counts_agree_with_counts_by_hand():
    counted = burden(Net(), 16)
    maps = 4 * 8 * 8 * 8 + 4 * 4 * 8 + 4 * 4 * 4 + 4 * 4 * 12  # convs, norm, sum; pool to concat
    swish, head = 4 * 4 * 4, 12 + 10
    assert counted.feature_mb * 2**20 / 4 == maps + swish + head
    assert counted.multiply_adds == (64 * 8 * 27 + 64 * 8 * 9 * 2 + 16 * 4 * 8 + 12 * 10)
    parameters = (27 * 8 + 8) + 2 * 8 + 9 * 2 * 8 + (8 * 4 + 4) + (12 * 10 + 10)
    assert counted.parameters == parameters
    assert counted.parameter_mb * 2**20 / 4 == parameters + 2 * 8


def test_an_se_block_costs_its_squeeze_and_its_dense_layers():
    plain, with_se = burden(Net(), 16), burden(add_se(Net(), "conv1", reduction=4), 16)
    assert with_se.multiply_adds - plain.multiply_adds == 2 * 8 * 2
    # The mean, the two layers, the sigmoid, and the scaled map.
    assert (with_se.feature_mb - plain.feature_mb) * 2**20 / 4 == 8 + 2 + 8 + 8 + 8 * 8 * 8


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_the_burdens_of_detectors_agree_with_published_ones(name):
    model = create_detector(name)
    counted = burden(model, 800)
    (row,) = published_burden(name)
    assert round(counted.multiply_adds / 1e9, 3) == float(row["gmacs"])
    assert counted.parameter_mb == pytest.approx(float(row["parameter_mb"]), abs=0.2)  # of a file


def test_a_detector_has_maps_of_its_trunk_pyramid_heads_and_regions():
    fields = {"pyramid_width": 8, "head_width": 16, "proposals_after": 10}
    counted = burden(create_detector("fasterrcnn_resnet18_fpn", 5, **fields), 64)
    trunk = burden(create_model("resnet18"), 64)
    positions = [16 * 16, 8 * 8, 4 * 4, 2 * 2]
    pyramid = sum(positions) * 8 * 2 + sum(positions[:3]) * 8 + 8  # convs, sums, P6
    proposals = (sum(positions) + 1) * (8 + 3 * (1 + 4))
    head = 10 * (49 * 8 + 16 + 16 + 5 * (1 + 4))
    maps = trunk.feature_mb * 2**20 / 4 - (512 + 1000)  # without its pooling and classifier
    assert counted.feature_mb * 2**20 / 4 == maps + pyramid + proposals + head


def test_the_command_prints_our_figures_and_the_published(run_python, run_command):
    process = run_python("-m", "se_flax.burden", "se_resnet50*")
    assert process.returncode == 0, process.stderr
    lines = [line.split() for line in process.stdout.splitlines()]
    assert lines[2][:5] == ["se_resnet50_caffe", "224", "1000", "28,088,024", "107.3"]
    assert lines[3][:4] == ["published", "107", "103", "4"]
    assert lines[4][:2] == ["published", "3.87"]
    process = run_command("se_flax.burden", "none*")
    assert process.returncode == 2
    assert process.stderr == (
        'error: no model matches "none*"; without a pattern all models are listed\n'
    )
    detector = run_command("se_flax.burden", "fasterrcnn_se_resnet18_fpn", "--input_size=64")
    assert detector.stdout.splitlines()[1].split()[:3] == ["fasterrcnn_se_resnet18_fpn", "64", "91"]
    assert '(did you mean "se_resnet50"?)' in run_command("se_flax.burden", "se_resnet5O").stderr
