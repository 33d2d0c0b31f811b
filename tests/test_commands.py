"""The list of commands."""

import pytest

from se_flax import __version__
from se_flax.__main__ import COMMANDS
from tests.conftest import ROOT


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
def test_a_command_has_the_help_of_its_module(run_python, name):
    module, _ = COMMANDS[name]
    process = run_python("-m", "se_flax", name, "--help")
    assert process.returncode == 0
    assert process.stdout == run_python("-m", module, "--help").stdout
    assert process.stderr == ""


def test_a_command_gets_its_arguments_and_keeps_its_exit_status(run_python, tmp_path):
    options = ["--config=tests/tiny_run.py", f"--workdir={tmp_path}", "--config.seed=-1"]
    process = run_python("-m", "se_flax", "train", *options)
    assert process.returncode == 2
    assert process.stderr == run_python("-m", "se_flax.main", *options).stderr
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
