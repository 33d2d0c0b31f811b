"""Commands that train ask for huge pages of memory."""

import os
import pathlib
import subprocess
import sys

import pytest

from se_flax.runtime import huge_pages
from tests.conftest import ROOT

SETTING = "glibc.malloc.hugetlb=1"
CONFIG = """
import os

def get_config():
    raise ValueError("[" + os.environ["GLIBC_TUNABLES"] + "]")
"""


def started(*command, **variables):
    """Returns what a command says whose config reports $GLIBC_TUNABLES."""
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    process = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )
    return process.stderr


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "reports.py"
    path.write_text(CONFIG)
    return f"--config={path}"


@pytest.mark.skipif(not huge_pages._can_ask(), reason="no huge pages on this system")
@pytest.mark.parametrize("command", [("se_flax.main",), ("se_flax", "train")])
def test_a_command_starts_again_with_huge_pages(command, config):
    assert f"[{SETTING}]" in started("-m", *command, config)


def test_a_setting_of_ones_own_is_kept(config):
    text = started("-m", "se_flax.main", config, GLIBC_TUNABLES="glibc.malloc.arena_max=4")
    assert "[glibc.malloc.arena_max=4]" in text


@pytest.fixture
def restarts(monkeypatch, tmp_path):
    """Returns the command lines that would be started, on a system with huge pages."""
    found = []
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(huge_pages, "_can_ask", lambda: True)
    monkeypatch.setattr(os, "execv", lambda path, argv: found.append(argv[1:]))
    yield found
    os.environ.pop("GLIBC_TUNABLES", None)


@pytest.mark.parametrize(
    ("argv", "restarted"),
    [
        (["python", "-X", "dev", "-m", "se_flax.main", "--config=quickstart"], True),
        (["python", "-m", "experiments.ratio", "--scale=smoke"], True),
        (["python", "/usr/bin/se-flax", "train", "--config=quickstart"], True),
        (["python", "-m", "ipykernel_launcher", "-f", "kernel.json"], False),
        (["python", "my_program.py", "se_flax"], False),
        (["python", "-m", "pytest", "se_flax"], False),
        (["python", "my_program.py", "-m", "se_flax.main"], False),
        (["python", "/usr/bin/se_flax", "train", "-m"], True),
        (["python", "-m"], False),
        (["python"], False),
    ],
)
def test_only_the_projects_own_commands_are_started_again(monkeypatch, restarts, argv, restarted):
    monkeypatch.setattr(sys, "orig_argv", argv)
    huge_pages.restart_with_huge_pages()
    assert restarts == [argv[1:]] * restarted


@pytest.mark.parametrize(
    ("kernel", "libc", "can_ask"),
    [
        ("always [madvise] never\n", "glibc 2.36", True),
        ("[always] madvise never\n", "glibc 2.36", False),
        ("always madvise [never]\n", "glibc 2.36", False),
        ("always [madvise] never\n", "glibc 2.34", False),
        (None, "glibc 2.36", False),
    ],
)
def test_what_the_system_offers_is_read(monkeypatch, tmp_path, kernel, libc, can_ask):
    file = pathlib.Path(tmp_path, "enabled")
    if kernel is not None:
        file.write_text(kernel)
    monkeypatch.setattr(huge_pages, "_KERNEL", file)
    monkeypatch.setattr(os, "confstr", lambda name: libc, raising=False)
    assert huge_pages._can_ask() is can_ask
