"""Data from a disk or a network is never run as code, and cannot choose where files are written."""

import ast

import pytest

from tests.conftest import ROOT

FILES = [
    path
    for folder in ("se_flax", "experiments", "configs")
    for path in ROOT.glob(f"{folder}/**/*.py")
]
RUNNING = {"eval", "exec"}
UNPACKING = {"extract", "extractall", "unpack_archive"}
PICKLES = {"dill", "cloudpickle", "joblib", "marshal", "shelve"}


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_does_nothing_unsafe(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            assert not PICKLES & {*names, (getattr(node, "module", "") or "").partition(".")[0]}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert "http://" not in node.value
        if isinstance(node, ast.Call):
            called = name_of(node.func)
            owner = name_of(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert owner != "pickle"
            assert called not in UNPACKING
            assert not (called in RUNNING and not owner)
            assert options.get("allow_pickle", "False") == "False"
            assert options.get("shell", "False") == "False"
            assert options.get("verify", "True") == "True"
            if (owner, called) == ("torch", "load"):
                assert options["weights_only"] == "True"
