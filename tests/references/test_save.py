"""Weights are written so that we, and the libraries of PyTorch, read them back bit for bit."""

import json

import jax
import numpy as np
import pytest

import se_flax
from se_flax.errors import UserError
from se_flax.models import Preparation
from se_flax.pretrained import class_names, preparation
from se_flax.pretrained.convert import convert, convert_back
from se_flax.pretrained.layouts import layouts_of
from se_flax.pretrained.save import architecture_of, layout_for, to_safetensors
from tests.references import comparison
from tests.stand_ins import SMALL, silence

pytestmark = pytest.mark.references

# One of each layout; the others are tested under `slow`.
QUICK = (
    ("resnet18", "torchvision:resnet18"),
    ("se_resnet50", "timm:seresnet50"),
    ("bn_inception", "pretrainedmodels:bninception"),
    ("inception_v3", "torchvision:inception_v3"),
    ("efficientnet_b0", "timm:tf_efficientnet_b0"),
    ("efficientnet_b0_torch", "torchvision:efficientnet_b0"),
    ("resnet20_cifar", "akamaster:resnet20"),
    ("resnet20_cifar", "chenyaofo:resnet20"),
    ("se_resnet20_cifar", "pytorchcv:seresnet20"),
    ("preact_resnet164_cifar", "pytorchcv:preresnet164bn"),
)
# The catalogue has weights of these, which the comparison of logits leaves out.
FURTHER = (
    ("vgg16", "timm:vgg16"),
    ("vgg16_bn", "timm:vgg16_bn"),
    ("se_resnet50_caffe", "timm:legacy_seresnet50"),
    ("se_resnext50_32x4d_caffe", "timm:legacy_seresnext50_32x4d"),
)
ALL = [*comparison.REFERENCES, *comparison.FURTHER, *FURTHER]
CASES = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow, id=":".join(pair))
    for pair in ALL
]


@pytest.mark.parametrize(("name", "reference"), CASES)
def test_a_librarys_tensors_come_back_from_ours_bit_for_bit(name, reference):
    import torch

    from tests.references import torch_models

    library, _, _ = reference.partition(":")
    if library in ("timm", "torchvision", "pretrainedmodels"):
        assert architecture_of(name, library)
    theirs = torch_models.build(reference)
    generator = torch.Generator().manual_seed(0)
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(-1, 1, generator=generator)
    state = torch_models.tensors(theirs)
    size = 299 if "inception" in name else 224
    fields = comparison._fields(reference)
    network = se_flax.create_model(name, **fields)
    ours = convert(state, network, 32 if "cifar" in name else size, layouts_of(name))
    back = convert_back(ours, layout_for(name, library, fields), auxiliary=library != "timm")
    theirs.load_state_dict({key: torch.from_numpy(x) for key, x in back.items()}, strict=True)
    for key, value in state.items():
        assert (back[key].shape, back[key].dtype) == (value.shape, value.dtype)
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[key], value, key)


def variables_of(name, num_classes=3, channels=3, size=8, **fields):
    network = se_flax.create_model(name, num_classes, **fields)
    images = np.zeros((1, size, size, channels), np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images))()
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: generator.uniform(0.1, 1, x.shape).astype(np.float32), variables)


GREY = Preparation(8, 0.9, "bicubic", (0.4,), (0.2,))


@pytest.mark.parametrize(
    ("name", "fields", "prepared"),
    [
        ("se_resnet20_cifar", {"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2}, GREY),
        ("resnet18", SMALL, Preparation(8, 1.0, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        ("se_small_cnn", {"dropout": 0.3}, None),
    ],
)
def test_our_own_file_gives_back_the_variables_and_what_is_stated(tmp_path, name, fields, prepared):
    size, channels = (prepared.size, len(prepared.mean)) if prepared else (32, 3)
    variables = variables_of(name, 3, channels, size, **fields)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(
        to_safetensors(
            name, variables, overrides=fields, preparation=prepared, class_names=("a", "b", "c")
        )
    )
    (tmp_path / "config.json").write_text("{}")  # of something else
    with silence():
        read = se_flax.load_pretrained(name, file, **fields)
        jax.tree.map(np.testing.assert_array_equal, read, dict(variables))
        assert class_names(file) == ("a", "b", "c")
        assert preparation(name, file) == (prepared or se_flax.models.model_info(name).preparation)
    with pytest.warns(UserWarning, match="for 3 classes; the backbone is loaded"):
        other = se_flax.load_pretrained(name, file, num_classes=5, **fields)
    assert other["params"]["classifier"]["bias"].shape == (5,)
    with pytest.raises(UserError, match=f'has weights for "{name}", not for "resnet34"'):
        se_flax.load_pretrained("resnet34", file)


def test_our_own_file_for_other_fields_is_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(
        to_safetensors("resnet18", variables_of("resnet18", size=224, **SMALL), overrides=SMALL)
    )
    with pytest.raises(UserError, match=r"is for \"resnet18\" with stage_sizes=\(1, 1\); give"):
        se_flax.load_pretrained("resnet18", file)


def test_a_file_for_timm_states_its_architecture_and_is_read_back(tmp_path):
    import safetensors

    variables = variables_of("se_resnet50", size=64)
    file = tmp_path / "timm.safetensors"
    file.write_bytes(to_safetensors("se_resnet50", variables, layout="timm"))
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["se_flax"])["architecture"] == "seresnet50"
    with silence():  # no doubt about the network
        read = se_flax.load_pretrained("se_resnet50", file)
    jax.tree.map(np.testing.assert_array_equal, read, dict(variables))
    with pytest.raises(UserError, match="is for timm's seresnet50"):
        se_flax.load_pretrained("resnet50", file)


@pytest.mark.parametrize(
    ("name", "layout", "fields", "words"),
    [
        ("resnet50_caffe", "timm", {}, "timm has no network that computes the same as"),
        ("se_resnet50", "torchvision", {}, "torchvision has no .*; use layout=timm, or our own"),
        ("small_cnn", "timm", {}, 'computes the same as "small_cnn"; use our own layout'),
        ("resnet18", "timm", SMALL, "timm's network differs .* with stage_sizes="),
        ("se_resnet50", "timm", {"reduction": 8}, "differs .* with reduction=8"),
        ("resnet20_cifar", "chenyaofo", {}, "differs .* with projection=False"),
        ("resnet18", "keras", {}, "there is no layout 'keras'"),
    ],
)
def test_a_library_that_computes_otherwise_is_refused(name, layout, fields, words):
    variables = {"params": {"classifier": {"bias": np.zeros(3)}}}
    with pytest.raises(UserError, match=words):
        to_safetensors(name, variables, layout=layout, overrides=fields)


def test_variables_of_another_network_and_fields_that_are_no_plain_values_are_refused():
    variables = variables_of("resnet18", size=224, **SMALL)
    with pytest.raises(
        UserError, match=r'not variables of "resnet18" for .*: \d+ are missing, left'
    ):
        to_safetensors("resnet18", variables)
    with pytest.raises(UserError, match='overrides of "resnet18" must be plain values'):
        to_safetensors("resnet18", variables, overrides={**SMALL, "unit": jax.nn.relu})


def test_the_command_writes_a_run_that_is_read_back_bit_for_bit(run_python, tmp_path):
    from se_flax.train import train
    from tests import tiny_run

    config = tiny_run.get_config()
    config.num_epochs = 1
    train(config, tmp_path)
    process = run_python("-m", "se_flax.export", f"--workdir={tmp_path}", "--format=safetensors")
    assert process.returncode == 0, process.stderr
    file = tmp_path / "export" / "se_resnet20_cifar.safetensors"
    run = se_flax.load_run(tmp_path)
    fields = {"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2}
    read = se_flax.load_pretrained("se_resnet20_cifar", file, **fields)
    jax.tree.map(np.testing.assert_array_equal, read, dict(run.variables))
    assert class_names(file) == run.classes
    assert preparation("se_resnet20_cifar", file) == run.preparation
    # The file is a source of weights for the other commands, too.
    again = tmp_path / "again.safetensors"
    options = ["--model=se_resnet20_cifar", f"--weights={file}", "--format=safetensors"]
    process = run_python("-m", "se_flax.export", *options, f"--output={again}")
    assert process.returncode == 0, process.stderr
    assert again.read_bytes() == file.read_bytes()
    # The layout of a library whose network has other fields is refused.
    options = [f"--workdir={tmp_path}", "--format=safetensors", "--layout=pytorchcv"]
    process = run_python("-m", "se_flax.export", *options)
    assert process.returncode == 2
    assert "pytorchcv's network differs from this" in process.stderr


def test_timms_network_gives_our_logits_with_a_file_of_the_command(run_python, tmp_path):
    from safetensors.torch import load_file

    from tests.references import torch_models

    variables = variables_of("resnet18", num_classes=5, size=64)
    variables = jax.tree.map(lambda x: x / np.sqrt(max(1, x[..., 0].size)), variables)
    own, file = tmp_path / "own.safetensors", tmp_path / "timm.safetensors"
    own.write_bytes(to_safetensors("resnet18", variables))
    options = ["--model=resnet18", f"--weights={own}", f"--output={file}"]
    process = run_python("-m", "se_flax.export", *options, "--format=safetensors", "--layout=timm")
    assert process.returncode == 0, process.stderr
    theirs = torch_models.timm.create_model("resnet18", num_classes=5)
    theirs.load_state_dict(load_file(file), strict=True)
    images = np.random.default_rng(0).standard_normal((2, 65, 65, 3), np.float32)
    network = se_flax.create_model("resnet18", 5)
    ours = jax.jit(lambda variables, x: network.apply(variables, x))(variables, images)
    expected = torch_models.logits(theirs.eval(), images)
    assert np.std(expected) > 1e-3 * np.max(np.abs(expected))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.max(np.abs(expected)))
