"""What is published of a run gives back its network, and says how it was trained."""

import json
import re
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import se_flax
from se_flax.config import default_config, leaves
from se_flax.errors import UserError
from se_flax.export.recipe import changed_fields, recipe
from se_flax.export.record import record_of
from se_flax.loaded import load_weights
from se_flax.models import registry
from se_flax.pretrained import class_names, preparation
from se_flax.publish import write_repository
from se_flax.train import train
from se_flax.workdir import config_as_json, read_config, write_config
from tests import tiny_run

NAME, REPOSITORY = "se_resnet20_cifar", "user/digits"
FIELDS = {"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2}
WITHOUT_THE_HUBS_LIBRARY = """
import runpy, sys
sys.modules["huggingface_hub"] = None  # makes every import of it fail
runpy.run_module("se_flax", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def folder(workdir, run_python):
    """The folder that the command writes, and does not upload."""
    options = [f"--workdir={workdir}", f"--repo={REPOSITORY}", "--dry_run", "--license=mit"]
    process = run_python("-c", WITHOUT_THE_HUBS_LIBRARY, "publish", *options)
    assert process.returncode == 0, process.stderr
    folder = workdir / "publish"
    lines = process.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == sorted(
        file.name for file in folder.iterdir()
    )
    assert lines[-1] == "without --dry_run, these files are uploaded to user/digits"
    return folder


def test_the_weights_give_back_the_run_bit_for_bit(workdir, folder):
    run, file = se_flax.load_run(workdir), folder / "model.safetensors"
    variables = se_flax.load_pretrained(NAME, file, **FIELDS)
    jax.tree.map(np.testing.assert_array_equal, variables, dict(run.variables))
    assert preparation(NAME, file) == run.preparation
    assert class_names(file) == run.classes
    loaded = load_weights(NAME, file)
    assert (loaded.classes, loaded.preparation) == (run.classes, run.preparation)
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 10), np.uint8)
    logits = [
        each.network.apply(each.variables, each.prepare(list(images)), train=False)
        for each in (run, loaded)
    ]
    assert np.std(logits[0]) > 0
    np.testing.assert_array_equal(*logits)


def test_the_description_is_in_timms_form_with_a_section_of_our_own(workdir, folder):
    stated = json.loads((folder / "config.json").read_text())
    own = se_flax.load_run(workdir).preparation
    assert stated["architecture"] == NAME
    assert (stated["num_classes"], stated["label_names"]) == (10, list("0123456789"))
    assert stated["pretrained_cfg"] == {
        "input_size": [1, 8, 8],
        "crop_pct": own.crop_pct,
        "interpolation": own.interpolation,
        "mean": list(own.mean),
        "std": list(own.std),
    }
    section = stated["se_flax"]
    assert section["model"] == NAME
    assert section["overrides"] == {key: _listed(x) for key, x in FIELDS.items()}
    assert (section["dataset"], section["seed"]) == ("digits", 0)
    assert section["step"] == se_flax.load_run(workdir).step


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


def test_the_card_states_what_the_run_recorded(workdir, folder):
    card = (folder / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    head = yaml.safe_load(head)
    summary = json.loads((workdir / "summary.json").read_text())
    assert (head["license"], head["library_name"]) == ("mit", "se_flax")
    assert {"image-classification", "squeeze-and-excitation"} <= set(head["tags"])
    assert "datasets" not in head  # the digits are not on the hub
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert index["name"] == "digits"
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    best = summary["per_seed"][0]["best"]
    assert values["Top-1 accuracy"] == pytest.approx(best["top1"] / 100, abs=1e-6)
    assert values["Top-5 accuracy"] == pytest.approx(best["top5"] / 100, abs=1e-6)
    for words in (
        f"| top-1 accuracy | {best['top1']:.2f}% |",
        f"It has {summary['parameters']:,} parameters and distinguishes 10 classes",
        "the best of the run's checkpoints on these same images",
        "| `num_epochs` | `1` |",
        "| `seed` | `0` |",
        "| `augment.crop_padding` | `1` |",
        f"| device | {summary['device_count']} x {summary['device']} |",
        f"| revision of se_flax | {summary['git_revision']} |",
        f"jax {summary['versions']['jax']}",
        "python -m se_flax.main --config=recipe.py",
    ):
        assert words in text


def test_the_code_of_the_card_names_a_class(folder, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    Image.new("L", (20, 30)).save(tmp_path / "photograph.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code.replace(REPOSITORY, str(folder / "model.safetensors")), {})
    assert capsys.readouterr().out.strip() in set("0123456789")


def test_the_recipe_trains_the_same_run(workdir, folder, tmp_path):
    names = {}
    exec((folder / "recipe.py").read_text(), names)
    config = names["get_config"]()
    published = dict(leaves(config_as_json(config)))
    assert published == dict(leaves(config_as_json(read_config(workdir))))
    train(config, tmp_path)
    again, run = se_flax.load_run(tmp_path), se_flax.load_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, again.variables, run.variables)


def test_a_recipe_has_no_folders_of_the_machine():
    config = tiny_run.get_config()
    config.dataset.data_dir = "/home/me/tensorflow_datasets"
    config.dataset.image_dir = "/home/me/birds"
    config.init_from = "/home/me/weights.pth"
    assert "/home" not in recipe(config)
    fields = changed_fields(config)
    assert (fields["dataset.image_dir"], fields["init_from"]) == ("birds", "weights.pth")
    config.init_from = "timm/seresnet50.a1_in1k"
    assert changed_fields(config)["init_from"] == "timm/seresnet50.a1_in1k"
    assert changed_fields(default_config()) == {}


@pytest.fixture
def of_seeds(tmp_path):
    """The workdir of a run of two seeds on CIFAR-10, without checkpoints."""
    config = default_config()
    config.seed, config.num_seeds, config.dataset.name = 3, 2, "cifar10"
    write_config(tmp_path, config)
    own = [
        {
            "seed": seed,
            "best": {"step": 10 * seed, "top1": 90.0 + seed, "loss": 0.1},
            "final": {"step": 50, "top1": 80.0 + seed, "loss": 0.2},
        }
        for seed in (3, 4)
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"per_seed": own}))
    return tmp_path


def test_the_results_are_those_of_the_seed_and_the_step(of_seeds):
    assert record_of(of_seeds, 30, None).results == {"top1": 93.0, "loss": 0.1}
    assert record_of(of_seeds, 40, 4).results == {"top1": 94.0, "loss": 0.1}
    assert record_of(of_seeds, 50, 4).results == {"top1": 84.0, "loss": 0.2}
    assert record_of(of_seeds, 40, 3).results == {}
    assert record_of(of_seeds, 30, None).dataset == ("CIFAR-10", "uoft-cs/cifar10")
    (of_seeds / "summary.json").unlink()
    assert record_of(of_seeds, 30, None).results == {}


def test_a_run_without_a_summary_is_published_without_results(workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    (copy / "summary.json").unlink()
    write_repository(copy, tmp_path / "files", REPOSITORY)
    card = (tmp_path / "files" / "README.md").read_text()
    assert "The run recorded no results on test images" in card
    assert "model-index" not in card


class Foreign(nn.Module):
    """A network of somebody's own code."""

    num_classes: int


def test_a_network_of_ones_own_code_is_refused(workdir, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    stated = json.loads((copy / "config.json").read_text())
    stated["model"]["name"] = "my_network"
    (copy / "config.json").write_text(json.dumps(stated))
    words = 'trained with the network "my_network", which does not come with se_flax'
    with pytest.raises(UserError, match=words):
        write_repository(copy, tmp_path / "files", REPOSITORY)
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    registry.register("my_network", Foreign, input_size=8, paper="none")
    with pytest.raises(UserError, match=words):
        write_repository(copy, tmp_path / "files", REPOSITORY)
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--repo=user/name", "--workdir is missing, for example --workdir=runs/quickstart"),
        ("--workdir={run}", "--repo is missing, for example --repo=user/name"),
        ("--workdir={run} --repo=name", '"name" is no name of a hub repository; give OWNER/NAME'),
        ("--workdir={run} --repo=a/b/c", '"a/b/c" is no name of a hub repository'),
        ("--workdir={run} --repo=a/b--c", '"a/b--c" is no name of a hub repository'),
        ("--workdir={run} --repo=a/b.", '"a/b." is no name of a hub repository'),
        ("--workdir={run} --repo=a/b.bin", '"a/b.bin" is no name of a hub repository'),
        ("--workdir={run}/no --repo=a/b", "is not the workdir of a run"),
        ("--workdir={run} --repo=a/b --step=7 --dry_run", 'has no checkpoint "7"'),
        ("--workdir={run} --repo=a/b --seed=5 --dry_run", "the run has no seed 5"),
        ("--workdir={run} --repo=a/b --output={run}/no/no", "cannot be written to; give another"),
        ("--workdir={run} --repo=a/b --model=resnet18", "model"),
    ],
)
def test_what_cannot_be_published_is_refused_in_one_line(
    workdir, run_command, tmp_path, options, words
):
    arguments = options.format(run=workdir).split()
    if "--output" not in options:
        arguments.append(f"--output={tmp_path / 'files'}")
    process = run_command("se_flax.publish", *arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not list(tmp_path.iterdir())


def test_uploading_without_the_hubs_library_or_a_token_is_refused(workdir, run_python, tmp_path):
    options = [f"--workdir={workdir}", "--repo=a/b", f"--output={tmp_path / 'files'}"]
    process = run_python("-c", WITHOUT_THE_HUBS_LIBRARY, "publish", *options)
    assert process.returncode == 2
    assert process.stderr == (
        "error: the package huggingface_hub is missing; install it with pip install "
        "huggingface_hub\n"
    )
    assert not list(tmp_path.iterdir())
