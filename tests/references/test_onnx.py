"""ONNX Runtime computes from our ONNX models what their networks do, for any number of images."""

import json

import jax
import numpy as np
import pytest

import se_flax
from se_flax.errors import UserError
from se_flax.export import to_onnx
from se_flax.models import model_info
from tests.stand_ins import SMALL

pytestmark = pytest.mark.references

# A network of every family, and the size of the images in this test.
FAMILIES = (
    ("cnn3", 32),
    ("se_small_cnn", 32),
    ("se_resnet20_cifar", 32),
    ("se_preact_resnet164_cifar", 32),
    ("resnext29_8x64d_cifar", 32),
    ("se_resnet18", 64),
    ("se_resnet50_caffe", 64),
    ("se_resnext50_32x4d", 64),
    ("senet154", 64),
    ("vgg16_bn", 64),
    ("se_bn_inception", 64),
    ("inception_v3", 80),
    ("se_inception_v3_cifar", 32),
    ("inception_resnet_v2", 80),
    ("efficientnet_b0", 64),
    ("efficientnet_b0_torch", 64),
    ("se_mobilenet_v1", 64),
    ("se_mobilenet_v2", 64),
    ("mobilenet_v3_small", 64),
    ("efficientnet_v2_s", 64),
    ("regnet_y_400mf", 64),
    ("se_resnet18d", 66),
    ("resnetrs50", 64),
    ("skresnext50_32x4d", 64),
    ("se_shufflenet", 64),
    ("se_wrn16_8_cifar", 32),
    ("se_shake_shake26_2x96d_cifar", 32),
)
OVERFLOWING = ("senet154", "inception_resnet_v2")  # if the mean of their kernels is not 0
QUICK = ("cnn3", "se_small_cnn", "se_resnet20_cifar")


def deviation(network, size, channels=3, shift=0.01):
    """Returns the largest deviation of ONNX Runtime's logits, relative to the largest logit.

    The mean of all kernels is `shift`. Without it, the logits of some networks hardly differ.
    """
    import onnx
    import onnxruntime

    images = np.zeros((1, size, size, channels), np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images))()
    generator = np.random.default_rng(0)

    def varied(x):
        mean = 0.01 if x.ndim == 1 else shift
        return np.float32(x * generator.uniform(0.6, 1.0, x.shape) + mean)

    variables = jax.tree.map(varied, variables)
    content = to_onnx(network, variables, size, channels)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    deviations = []
    for n in (1, 3):
        images = generator.standard_normal((n, size, size, channels), np.float32)
        (logits,) = session.run(["logits"], {"images": images})
        expected = jax.jit(lambda variables, x: network.apply(variables, x))(variables, images)
        assert logits.shape == expected.shape
        assert np.std(expected) > 1e-3
        deviations.append(np.max(np.abs(logits - expected)) / np.max(np.abs(expected)))
    return max(deviations)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(*pair, marks=() if pair[0] in QUICK else pytest.mark.slow, id=pair[0])
        for pair in FAMILIES
    ],
)
def test_onnx_runtime_gives_the_networks_logits(name, size):
    fields = {"auxiliary": False} if name == "inception_v3" else {}
    network = se_flax.create_model(name, model_info(name).num_classes, **fields)
    assert deviation(network, size, shift=0.0 if name in OVERFLOWING else 0.01) < 1e-5


@pytest.mark.parametrize(
    "fields",
    [
        {"squeeze": "max"},
        {"squeeze": "none"},
        {"stem": "imagenet", "pool_ceil": True},
        {"se": "slow_squeeze_slow_excite"},
        {"se": "bump"},
        {"se": "ese"},
        {"se": "eca"},
        {"se": "cbam"},
        {"se": "gather_excite", "extent": 4},
        {"se": "gather_excite", "form": "theta"},
        {"se": "gather_excite", "form": "theta+", "extent": 2},
        {"se": "global_context"},
        {"se": "global_context", "fusion": "scale"},
        {"se": "sk"},
        {"se": "sk", "dilate": False, "split_input": True},
    ],
)
def test_other_blocks_and_pooling_are_written_as_well(fields):
    network = se_flax.create_model("se_resnet18", 5, **{**SMALL, **fields})
    assert deviation(network, 32, channels=1) < 1e-5


def test_a_network_that_computes_in_bfloat16_is_written_in_float32():
    network = se_flax.create_model("se_resnet18", 5, **SMALL)
    images = np.zeros((1, 8, 8, 3), np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images))()
    expected = to_onnx(network, variables, 8)
    assert to_onnx(network.clone(dtype="bfloat16"), variables, 8) == expected


def test_what_has_no_operator_is_refused_in_one_sentence():
    import flax.linen as nn

    class Odd(nn.Module):
        dtype: type = np.float32

        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(2)(jax.lax.cumsum(x.mean((1, 2)), axis=1))

    network = Odd()
    variables = network.init(jax.random.key(0), np.zeros((1, 4, 4, 3)))
    with pytest.raises(UserError, match='the network computes "cumsum", which cannot be written'):
        to_onnx(network, variables, 4)


def test_the_command_writes_a_model_that_states_preparation_and_classes(run_python, tmp_path):
    import onnxruntime

    from se_flax.train import train
    from tests import tiny_run

    config = tiny_run.get_config()
    config.num_epochs = 1
    train(config, tmp_path)
    process = run_python("-m", "se_flax.export", f"--workdir={tmp_path}", "--format=onnx")
    assert process.returncode == 0, process.stderr
    session = onnxruntime.InferenceSession(tmp_path / "export" / "se_resnet20_cifar.onnx")
    run = se_flax.load_run(tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 1), np.float32)
    (logits,) = session.run(["logits"], {"images": images})
    expected = run.network.apply(run.variables, images, train=False)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.max(np.abs(expected)))
    stated = json.loads(session.get_modelmeta().custom_metadata_map["se_flax"])
    assert stated["label_names"] == list("0123456789")
    assert stated["pretrained_cfg"]["std"] == list(run.preparation.std)
