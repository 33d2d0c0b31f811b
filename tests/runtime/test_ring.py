"""The runtime imports no network, no data set and no config."""

import ast

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "se_flax" / "runtime").glob("*.py"))
OUTSIDE = {"flax", "optax", "ml_collections", "tensorflow", "tensorflow_datasets", "grain"}
# The sums of the metrics, whose form the steps decide.
EXCEPTIONS = {"progress.py": {"se_flax.steps"}}


def imported(path):
    """Yields the modules that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "se_flax":
                yield from (f"se_flax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_runtime_imports_only_itself_and_the_errors(path):
    modules = set(imported(path)) - EXCEPTIONS.get(path.name, set())
    own = {name for name in modules if name.partition(".")[0] == "se_flax"}
    assert {
        name for name in own if name != "se_flax.errors" and not name.startswith("se_flax.runtime")
    } == set()
    assert not OUTSIDE & {name.partition(".")[0] for name in modules}
