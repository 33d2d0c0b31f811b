"""What is built from the repository: a wheel and an sdist, and whether they work on their own."""

import configparser
import email
import html.parser
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import markdown
import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

NOT_SOURCE = (".git", ".venv", "venv", "runs", "build", "dist", "site", "__pycache__", "*.egg-info")


def run(folder: pathlib.Path, *arguments: str, **environment: str) -> str:
    """Runs `python ARGUMENTS` in a folder; returns what it prints."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def build(kind: str, source: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Builds a wheel or an sdist as pip does, with the setuptools that is installed."""
    program = f"from setuptools import build_meta; build_meta.build_{kind}({str(output)!r})"
    run(source, "-c", program)
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> pathlib.Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE))
    (folder / "output").mkdir()
    with tarfile.open(build("sdist", folder / "source", folder / "output")) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("se_flax-*")
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> pathlib.Path:
    """The unpacked wheel, built from the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(sdist, folder / "source")
    (folder / "output").mkdir()
    with zipfile.ZipFile(build("wheel", source, folder / "output")) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def metadata(wheel) -> email.message.Message:
    (path,) = wheel.glob("*.dist-info/METADATA")
    return email.message_from_string(path.read_text())


def files_in(folder: pathlib.Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in paths}


def test_a_wheel_holds_the_package_and_the_configs_and_installs_nothing_else(wheel):
    (info,) = wheel.glob("*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"se_flax", info.name}
    expected = files_in(ROOT / "se_flax") | {
        f"configs/{name}" for name in files_in(ROOT / "configs")
    }
    assert files_in(wheel / "se_flax") == expected
    assert "py.typed" in expected


def test_an_sdist_holds_what_the_repository_does(sdist):
    files = files_in(sdist)
    for folder in ("se_flax", "configs", "experiments", "tests", "docs", "typings"):
        missing = {f"{folder}/{name}" for name in files_in(ROOT / folder)} - files
        assert not {name for name in missing if not name.endswith((".lock", "report.html"))}
    for pattern in ("*.md", "requirements*.txt", "*.cfg", "*.toml", "mkdocs.yml", "CITATION.cff"):
        assert {path.name for path in ROOT.glob(pattern)} <= files


def test_the_tests_can_be_run_from_an_sdist(sdist):
    options = ("-q", "-n", "0", "-p", "no:cacheprovider")
    collected = run(sdist, "-m", "pytest", *options, "--collect-only")
    assert "error" not in collected.splitlines()[-1]
    output = run(sdist, "-m", "pytest", *options, "tests/test_rings.py", "tests/test_configs.py")
    assert " passed" in output.splitlines()[-1]
    assert "failed" not in output


class Links(html.parser.HTMLParser):
    """Collects the addresses that a page refers to."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("href", "src")]


def test_the_description_of_the_package_has_no_relative_links(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = Links()
    page.feed(markdown.markdown(metadata.get_payload(), extensions=["tables", "fenced_code"]))
    assert page.addresses
    assert [link for link in page.addresses if not link.startswith("https://")] == []
    assert "[CONTRIBUTING.md]" not in metadata.get_payload()
    assert "CONTRIBUTING.md describes the layout" in metadata.get_payload()
    assert "!" not in metadata.get_payload()  # no remains of a figure


def test_the_package_states_its_types_and_versions_of_python(metadata):
    classifiers = metadata.get_all("Classifier")
    assert "Typing :: Typed" in classifiers
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert all(", https://" in url for url in metadata.get_all("Project-URL"))


def test_the_scripts_list_the_commands(wheel, capsys, monkeypatch):
    (path,) = wheel.glob("*.dist-info/entry_points.txt")
    scripts = configparser.ConfigParser()
    scripts.read(path)
    assert set(scripts["console_scripts"]) == {"se_flax", "se-flax"}
    for target in scripts["console_scripts"].values():
        module, _, function = target.partition(":")
        monkeypatch.setattr(sys, "argv", ["se_flax"])
        monkeypatch.setattr(sys, "path", list(sys.path))
        getattr(importlib.import_module(module), function)()
        assert "train" in capsys.readouterr().out


def test_the_quickstart_runs_from_a_wheel_in_an_empty_folder(wheel, tmp_path):
    path = {"PYTHONPATH": str(wheel)}
    options = ["--config=configs/quickstart.py", "--config.num_epochs=1"]
    where = run(tmp_path, "-c", "import se_flax; print(se_flax.__file__)", **path)
    assert where.startswith(str(wheel))
    output = run(tmp_path, "-m", "se_flax.main", *options, **path)
    assert "next: python -m se_flax.evaluate --workdir=runs/quickstart" in output
    assert run(tmp_path, "-m", "se_flax", "train", *options, **path)  # already complete
    result = run(tmp_path, "-m", "se_flax", "evaluate", "--workdir=runs/quickstart", **path)
    summary = json.loads((tmp_path / "runs/quickstart/summary.json").read_text())
    assert json.loads(result.splitlines()[-1])["top1"] == pytest.approx(summary["best"]["top1"])


def test_a_recipe_runs_from_a_wheel_by_its_name(wheel, tmp_path):
    options = ["--config=se_resnet_cifar100:20", "--config.dataset.name=digits"]
    options += ["--config.num_epochs=1", "--config.schedule.milestones=()"]
    run(tmp_path, "-m", "se_flax.main", *options, PYTHONPATH=str(wheel))
    assert (tmp_path / "runs/se_resnet_cifar100_20/summary.json").exists()
