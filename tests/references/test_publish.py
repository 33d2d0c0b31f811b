"""What is published is read back from a hub, by this package and by timm."""

import json

import jax
import numpy as np
import pytest

import se_flax
from se_flax.config import default_config
from se_flax.export.network import TrainedNetwork
from se_flax.export.record import Record
from se_flax.export.repository import repository_files
from se_flax.models import Preparation
from se_flax.train import train
from tests import tiny_run
from tests.references.hub_server import serving
from tests.stand_ins import silence

pytestmark = pytest.mark.references

COLOUR = Preparation(64, 0.9, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
GREY = Preparation(64, 1.0, "bilinear", (0.4,), (0.2,))
NETWORKS = (
    ("resnet18", GREY),
    *(
        pytest.param(name, COLOUR, marks=pytest.mark.slow)
        for name in (
            "se_resnet50",
            "se_resnet50_caffe",
            "senet154",
            "efficientnet_b0",
            "efficientnet_b0_torch",
        )
    ),
)


def trained_network(name, prepared, num_classes=7):
    """Returns a network with random variables."""
    network = se_flax.create_model(name, num_classes)
    images = np.zeros((1, prepared.size, prepared.size, len(prepared.mean)), np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images))()
    generator = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: np.float32(x * generator.uniform(0.8, 1.25, x.shape) + 0.01), variables
    )
    classes = tuple("abcdefg")
    return TrainedNetwork(name, {}, network, variables, prepared, classes, step=3)


def write(folder, trained):
    record = Record(default_config(), {}, seed=0, state=None)
    for name, content in repository_files(trained, record, "user/name").items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(("name", "prepared"), NETWORKS)
def test_timm_and_we_read_the_same_folder(tmp_path, name, prepared):
    from tests.references import torch_models
    from tests.references.torch_models import timm

    trained = trained_network(name, prepared)
    write(tmp_path, trained)
    with silence():
        ours = se_flax.load_pretrained(name, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, ours, dict(trained.variables))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    shape = (2, prepared.size, prepared.size, len(prepared.mean))
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = jax.jit(lambda variables, x: trained.network.apply(variables, x))(ours, images)
    logits = torch_models.logits(theirs.double(), images.astype(np.float64))
    assert np.std(expected) > 1e-3 * np.max(np.abs(expected))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.max(np.abs(expected)))
    config = timm.data.resolve_model_data_config(theirs)
    size = [len(prepared.mean), prepared.size, prepared.size]
    assert list(config["input_size"]) == size
    assert (
        Preparation(
            prepared.size,
            config["crop_pct"],
            config["interpolation"],
            tuple(config["mean"]),
            tuple(config["std"]),
        )
        == prepared
    )
    assert theirs.pretrained_cfg["label_names"] == list("abcdefg")


def test_timm_replaces_the_classifier_for_other_classes(tmp_path):
    from tests.references.torch_models import timm

    write(tmp_path, trained_network("resnet18", COLOUR))
    kept = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).state_dict()
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert other.fc.weight.shape == (3, 512)
    assert all((x == kept[key]).all() for key, x in other.state_dict().items() if key[:2] != "fc")
    grey = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1)
    assert grey.conv1.weight.shape == (64, 1, 7, 7)


@pytest.fixture(scope="module")
def hub():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A small run whose network timm does not have."""
    config = tiny_run.get_config()
    config.num_epochs = 1
    workdir = tmp_path_factory.mktemp("run")
    train(config, workdir)
    return workdir


FIELDS = {"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2}
READ = f"""
import sys
import numpy as np
import se_flax
from se_flax.loaded import load_weights
name, workdir = "se_resnet20_cifar", sys.argv[1]
run, loaded = se_flax.load_run(workdir), load_weights(name, "user/digits")
variables = se_flax.load_pretrained(name, "user/digits", **{FIELDS})
images = list(np.random.default_rng(0).integers(0, 256, (3, 12, 10), np.uint8))
logits = [e.network.apply(e.variables, e.prepare(images), train=False) for e in (run, loaded)]
np.testing.assert_array_equal(*logits)
np.testing.assert_array_equal(
    run.variables["params"]["stem_conv"]["kernel"], variables["params"]["stem_conv"]["kernel"]
)
assert se_flax.pretrained.preparation(name, "user/digits") == run.preparation
assert (loaded.classes, loaded.preparation) == (run.classes, run.preparation)
for other in ("resnet20_cifar", "resnet18"):
    try:
        se_flax.load_pretrained(other, "user/digits")
    except ValueError as error:
        print(error)
"""


def test_a_published_run_is_read_back_from_the_hub(hub, workdir, run_python, tmp_path):
    options = ["publish", f"--workdir={workdir}", "--repo=user/digits"]
    process = run_python("-m", "se_flax", *options, **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f"published: {hub.endpoint}/user/digits"
    files = hub.repositories["user/digits"]
    assert files == {file.name: file.read_bytes() for file in (workdir / "publish").iterdir()}
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "recipe.py"]
    process = run_python("-c", READ, str(workdir), **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        f'user/digits has weights for "se_resnet20_cifar", not for "{other}"'
        for other in ("resnet20_cifar", "resnet18")
    ]


def test_timm_reads_a_repository_of_the_hub(hub, run_python, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder, trained_network("resnet18", COLOUR))
    program = f"""
import torch
from safetensors.torch import load_file
from tests.references.torch_models import timm
from se_flax import load_pretrained
from se_flax.publish import upload
folder = {str(folder)!r}
upload(folder, "user/colour", ["config.json", "model.safetensors", "README.md"])
model = timm.create_model("hf-hub:user/colour", pretrained=True)
tensors = load_file(folder + "/model.safetensors")
assert model.state_dict().keys() == tensors.keys()
assert all(torch.equal(x, tensors[key]) for key, x in model.state_dict().items())
load_pretrained("resnet18", "user/colour")
try:
    load_pretrained("resnet34", "user/colour")
except ValueError as error:
    print(error)
"""
    process = run_python("-c", program, **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr
    assert "user/colour is for timm's resnet18; " in process.stdout
    assert sorted(hub.repositories["user/colour"]) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_a_second_upload_replaces_the_files_and_a_private_one_is_not_made_public(
    hub, workdir, run_python, tmp_path
):
    options = ["se_flax.publish", f"--workdir={workdir}", "--repo=user/twice"]
    environment = hub.environment(tmp_path)
    hub.repositories["user/twice"] = {"README.md": b"old", "notes.txt": b"kept"}
    process = run_python("-m", *options, "--private", **environment)
    assert process.returncode == 2
    assert "user/twice exists on the Hugging Face hub and is public; make it" in process.stderr
    assert hub.repositories["user/twice"]["README.md"] == b"old"
    assert run_python("-m", *options, **environment).returncode == 0
    assert hub.repositories["user/twice"]["README.md"] != b"old"
    assert hub.repositories["user/twice"]["notes.txt"] == b"kept"
    options[-1] = "--repo=user/hidden"
    assert run_python("-m", *options, "--private", **environment).returncode == 0
    assert "user/hidden" in hub.private


@pytest.mark.parametrize(
    ("repository", "variables", "words"),
    [
        ("user/x", {"HF_TOKEN": ""}, "uploading needs a token of the Hugging Face hub with"),
        (
            "user/x",
            {"HF_TOKEN": "hf_wrong"},
            "does not let this token write to user/x (Client error '401",
        ),
        ("others/x", {}, "does not let this token write to others/x ("),
        ("user/x", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot upload to user/x on the"),
        ("user/x", {"HF_HUB_OFFLINE": "1"}, "cannot upload to user/x on the"),
    ],
)
def test_an_upload_that_fails_is_told_in_one_line(
    hub, workdir, run_python, tmp_path, repository, variables, words
):
    options = [f"--workdir={workdir}", f"--repo={repository}"]
    environment = {**hub.environment(tmp_path), **variables}
    process = run_python("-m", "se_flax.publish", *options, **environment)
    assert process.returncode == 2
    (line,) = [each for each in process.stderr.splitlines() if each.startswith("error: ")]
    assert words in line
    assert process.stderr.splitlines() == [line]
    assert repository not in hub.repositories


def test_the_hubs_library_reads_the_card(workdir, tmp_path):
    from huggingface_hub import ModelCard

    from se_flax.publish import write_repository

    write_repository(workdir, tmp_path, "user/digits", license="mit")
    card = ModelCard.load(tmp_path / "README.md")
    summary = json.loads((workdir / "summary.json").read_text())
    first, *_ = card.data.eval_results
    assert (card.data.license, card.data.library_name) == ("mit", "se_flax")
    assert (first.task_type, first.metric_type) == ("image-classification", "accuracy")
    assert first.metric_value == pytest.approx(summary["per_seed"][0]["best"]["top1"] / 100)
