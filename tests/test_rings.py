"""Imports point inwards: the inner rings import nothing from the outer ones (CONTRIBUTING.md)."""

import ast

import pytest

from tests.conftest import ROOT

# What each folder of the package may import of it, besides itself.
ALLOWED = {
    "layers": ("errors",),
    "models": ("errors", "layers"),
    "detection": ("errors", "layers", "models"),
    "pretrained": ("errors", "layers", "models", "detection", "runtime.paths", "cli"),
    "data": (
        "errors",
        "models",
        "rng",
        "parallel",
        "runtime.compiler",
        "runtime.paths",
        "cli",
        "runtime.status",
        "runtime.terminal",
    ),
    "runtime": ("errors",),
}
EXCEPTIONS = {
    # A command that draws what a config feeds the network.
    "data/preview.py": ("config", "main", "program", "stages"),
    # What a detector is trained on and evaluated by; the detectors themselves do not import it.
    "detection/annotations.py": ("data",),
    "detection/average_precision.py": ("runtime",),
    "detection/batches.py": ("data", "parallel", "rng"),
    "detection/coco.py": ("runtime",),
    "detection/dataset.py": ("data",),
    "detection/draw.py": ("analysis",),
    # How a run and the commands use detectors.
    "detection/evaluate.py": ("parallel",),
    "detection/from_config.py": ("data", "runtime"),
    "detection/init_from.py": ("pretrained", "rng"),
    "detection/loaded.py": ("pretrained", "restored", "runtime"),
    "detection/predict.py": ("analysis", "data", "runtime"),
    "detection/shapes.py": ("rng",),
    "detection/step.py": ("metrics", "parallel", "rng", "state", "step"),
    "detection/task.py": ("config", "data", "metrics", "seeds"),
    "detection/order.py": ("rng",),
    "detection/tfds_images.py": ("data", "runtime"),
}
RINGS_ONE_AND_TWO = {"flax", "optax", "ml_collections", "tensorflow_datasets", "grain"}
FILES = sorted((ROOT / "se_flax").rglob("*.py"))


def imported(path):
    """Returns the modules that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "se_flax":
                yield from (f"se_flax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "se_flax")))
def test_imports_point_inwards(path):
    modules = set(imported(path))
    name = path.relative_to(ROOT / "se_flax").as_posix()
    folder = name.partition("/")[0]
    assert not {"experiments", "examples", "configs", "tests"} & {
        m.partition(".")[0] for m in modules
    }
    if folder not in ALLOWED:
        return
    allowed = {folder, *ALLOWED[folder], *EXCEPTIONS.get(name, ())}
    for module in modules:
        package, _, inner = module.partition(".")
        if package == "se_flax":
            assert any(inner == item or inner.startswith(f"{item}.") for item in allowed), module
    if folder == "runtime":
        assert not RINGS_ONE_AND_TWO & {module.partition(".")[0] for module in modules}
