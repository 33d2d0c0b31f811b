"""The list of commands, and how they find configs from any folder."""

import os
import subprocess
import sys

import pytest

from se_flax import __version__
from se_flax.__main__ import COMMANDS
from se_flax.cli import config_files
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
SHOW = """
import sys
from absl import flags
from se_flax.main import config_of_flags, define_flags
define_flags()
flags.FLAGS(sys.argv)
print(config_of_flags(flags.FLAGS)[0].model.name)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Runs `python ARGUMENTS` in an empty folder, where of the repository only se_flax is found."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/se_flax").symlink_to(ROOT / "se_flax")
    (tmp_path / "empty").mkdir()

    def run(*arguments, **files):
        for name, text in files.items():
            path = tmp_path / "empty" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path / "empty",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "packages")},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_commands_are_listed_with_a_line_each_without_loading_jax(run_python, arguments):
    program = """
import runpy, sys
runpy.run_module("se_flax", run_name="__main__", alter_sys=True)
assert not {"jax", "flax", "absl", "numpy"} & set(sys.modules)
"""
    process = run_python("-c", program, *arguments)
    assert process.returncode == 0, process.stderr
    listed = [line.split()[0] for line in process.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_every_command_of_the_package_is_in_the_list():
    files = [path for path in (ROOT / "se_flax").rglob("*.py") if "app.run(" in path.read_text()]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    modules = [module.removesuffix(".__main__") for module in modules]
    assert sorted(modules) == sorted(module for module, _ in COMMANDS.values())


@pytest.mark.parametrize("name", ["train", "pretrained", "confusion"])
def test_a_command_has_the_help_of_its_module(run_python, run_command, name):
    module, _ = COMMANDS[name]
    process = run_python("-m", "se_flax", name, "--help")
    assert process.returncode == 0
    assert process.stdout == run_command(module, "--help").stdout
    assert process.stderr == ""


def test_a_command_gets_its_arguments_and_keeps_its_exit_status(run_python, run_command, tmp_path):
    options = ["--config=tests/tiny_run.py", f"--workdir={tmp_path}", "--config.seed=-1"]
    process = run_python("-m", "se_flax", "train", *options)
    assert process.returncode == 2
    assert process.stderr == run_command("se_flax.main", *options).stderr
    assert "from 0 to 4294967295" in process.stderr


def test_an_unknown_command_is_refused_in_one_line(run_python):
    for name, expected in (("evalute", ' (did you mean "evaluate"?)'), ("xyz", "; the")):
        process = run_python("-m", "se_flax", name)
        assert process.returncode == 2
        (line,) = process.stderr.splitlines()
        assert line.startswith(f'error: there is no command "{name}"{expected}')


def test_the_version_is_printed(run_python):
    assert run_python("-m", "se_flax", "--version").stdout == f"{__version__}\n"


def test_without_the_libraries_of_a_run_a_command_says_what_to_install(run_python):
    program = """
import importlib.util
importlib.util.find_spec = lambda name: None
from se_flax.__main__ import main
main()
"""
    process = run_python("-c", program, "evaluate")
    assert process.returncode == 2
    assert 'pip install "se_flax[train]"' in process.stderr


def test_the_configs_are_listed_with_their_summaries(run_python):
    process = run_python("-m", "se_flax", "configs")
    listed = {line.split(" ")[0] for line in process.stdout.splitlines()}
    assert {path.stem for path in CONFIGS.glob("*.py")} <= listed
    assert "SENet-154 on ImageNet" in process.stdout


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.py", "configs/quickstart", "configs/quickstart.py"]
)
def test_a_config_of_the_package_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files.find(name) == CONFIGS / "quickstart.py"
    assert config_files.find(f"other/{name}") != CONFIGS / "quickstart.py"


def test_a_file_that_exists_is_not_replaced_by_a_config_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart.py", "configs/quickstart.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        assert str(config_files.find(name)) == name


@pytest.mark.parametrize(
    ("config", "network"),
    [
        ("quickstart", "se_resnet20_cifar"),
        ("se_resnet_cifar100:20", "se_resnet20_cifar"),
        ("configs/resnet_cifar100.py:32", "resnet32_cifar"),  # imports se_resnet_cifar100
    ],
)
def test_configs_of_the_package_are_read_in_an_empty_folder(elsewhere, config, network):
    process = elsewhere("-c", SHOW, f"--config={config}")
    assert process.stdout == f"{network}\n", process.stderr


def test_a_users_config_can_import_those_of_the_package(elsewhere):
    mine = "from configs import resnet_cifar10\n\ndef get_config():\n"
    mine += "    return resnet_cifar10.get_config('44')\n"
    process = elsewhere("-c", SHOW, "--config=own/mine.py", own__mine=mine)
    assert process.stdout == "resnet44_cifar\n", process.stderr


def test_a_users_folder_of_configs_is_searched_before_those_of_the_package(elsewhere):
    mine = "from configs import base, quickstart, se_resnet_cifar10\n\ndef get_config():\n"
    mine += "    config = se_resnet_cifar10.get_config('20')\n"
    mine += "    config.model.name = base.NAME + quickstart.NAME\n    return config\n"
    files = {"base": "NAME = 'vgg'\n", "quickstart": "NAME = '16'\n", "mine": mine}
    files = {f"configs__{name}": text for name, text in files.items()}
    process = elsewhere("-c", SHOW, "--config=configs/mine.py", **files)
    assert process.stdout == "vgg16\n", process.stderr


def test_a_config_that_does_not_exist_is_refused_with_a_hint(elsewhere):
    for name, expected in (
        ("quikstart", '"quikstart" (did you mean "quickstart"?)'),
        ("configs/quikstart.py", '(did you mean "configs/quickstart.py"?)'),
        ("xyz", '"xyz"; python -m se_flax configs lists those of se_flax'),
    ):
        process = elsewhere("-m", "se_flax.main", f"--config={name}")
        assert process.returncode == 2
        (line,) = process.stderr.splitlines()
        assert expected in line
