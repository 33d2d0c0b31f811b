"""The commands and the code on the pages of the documentation."""

import ast
import functools
import re
import shlex
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def blocks(language):
    """Returns (page, text) of each block of code in a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page.stem, text) for page in PAGES for text in pattern.findall(page.read_text())]


@functools.cache
def commands():
    """Returns the commands of se_flax and of the experiments, as lists of arguments."""
    text = "\n".join(text for _, text in blocks("bash")).replace("\\\n", " ")
    text = text.replace("$study", "placement").replace("${dataset}_${network}", "cifar10_resnet20")
    found = re.findall(r"-m ((?:se_flax|experiments)\.[^\n>|&#]*)", text)
    return list(dict.fromkeys(found))


def test_the_pages_have_commands_and_code():
    assert len(commands()) > 40
    assert len(blocks("python")) > 10


@pytest.fixture(scope="module")
def help_of(run_command):
    """Returns what the --help of a module shows."""
    return functools.cache(lambda module: run_command(module, "--help").stdout)


@pytest.mark.parametrize("command", commands())
def test_a_command_has_options_that_exist_and_a_config_that_is_accepted(
    command, run_command, help_of
):
    module, *options = shlex.split(command)
    if module == "se_flax.main":
        process = run_command("tests.accepts", *options)
        assert process.returncode == 0, process.stderr
        return
    for option in options:
        name = option.partition("=")[0]
        assert name in help_of(module) or not name.startswith("--") or name == "--help", option


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_code_can_be_parsed(page, code):
    ast.parse(code)


def test_the_code_in_the_readme_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    ((_, code),) = [block for block in blocks("python") if block[0] == "README"]
    names = {}
    exec(code, names)
    assert names["logits"].shape == (2, 10)
    again = names["model"].apply(names["variables"], names["images"], train=False)
    assert not (again == names["logits"]).all()


def run_page(name, names):
    """Runs all code on a page, in order; returns its variables."""
    for page, code in blocks("python"):
        if page == name:
            exec(code, names)
    return names


def test_the_code_for_trained_runs_runs(monkeypatch, tmp_path, undisturbed, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(undisturbed)
    for folder in ("DIR", "photographs"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / folder / "black.png")
    assert run_page("quickstart", {})["logits"].shape == (5, 10)
    assert run_page("reproduce", {})["logits"].shape == (1, 10)
    run_page("predict", {})
    assert "photographs/black.png (" in capsys.readouterr().out


@pytest.mark.slow
def test_the_code_for_projects_runs(monkeypatch, tmp_path):
    rows = []
    run = types.SimpleNamespace(log=lambda values, step: rows.append((step, values)))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **options: run))
    monkeypatch.chdir(tmp_path)
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    given = {"train_images": images, "train_labels": labels}
    names = run_page("library", given | {"test_images": images, "test_labels": labels})
    assert names["gates"].shape == (2, 64)
    assert names["logits"].shape == (2, 10)
    assert names["summary"]["steps"] == rows[-1][0] == 20


@pytest.mark.slow
def test_the_run_to_profile_writes_its_trace(run_python, tmp_path):
    (command,) = (each for each in commands() if "--config.profile_steps=20" in each)
    options = [each for each in shlex.split(command) if not each.startswith("--workdir")]
    process = run_python("-m", *options, f"--workdir={tmp_path}", "--config.num_epochs=3")
    assert process.returncode == 0, process.stderr
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    assert "/host:CPU" in [plane.name for plane in planes]
