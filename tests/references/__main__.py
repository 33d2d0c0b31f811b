"""Writes the table of all references: python -m tests.references [FILE]."""

import pathlib
import platform
import sys
from importlib.metadata import version

import jax

from tests.references.comparison import FURTHER, REFERENCES, TRAINED, compare, compare_training


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def main(path: str = "experiments/results/references.md") -> None:
    """Compares all networks with their references and writes what was measured."""
    lines = [
        "# Our networks compared with independent implementations",
        "",
        "Written by `python -m tests.references`, on a "
        f"{jax.devices()[0].platform.upper()} with Python {platform.python_version()}, "
        f"{_versions('jax', 'flax', 'torch', 'torchvision', 'timm', 'pretrainedmodels')}.",
        "",
        "## In evaluation",
        "",
        "Both have the same random weights and batch-norm statistics, converted by the code behind",
        "`load_pretrained`. Ours compute in float32, theirs in float64. The deviation is the",
        "largest difference of two logits, relative to the largest logit; from `mobilenet_v1` on,",
        "it is the larger one for a square image and one of 97 x 131 pixels.",
        "",
        "| network | reference | parameters | deviation |",
        "|---|---|---:|---:|",
    ]
    for name, reference in [*REFERENCES, *FURTHER]:
        result = compare(name, reference)
        if result.parameters != result.their_parameters:
            raise AssertionError(f"{name} does not have as many parameters as {reference}")
        lines.append(f"| `{name}` | {reference} | {result.parameters:,} | {result.logits:.1e} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "## In training",
        "",
        "One network of each family, four images, both in float64, without dropout and stochastic",
        "depth: the largest deviation of logits, of the mean or variance of any batch norm,",
        "and of the gradient with respect to any parameter tensor, each relative to the largest",
        "value of its own tensor. What remains is rounding to float32 where tensors are converted.",
        "",
        "| network | reference | logits | batch statistics | gradients | parameter tensors |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, reference in TRAINED:
        result = compare_training(name, reference)
        lines.append(
            f"| `{name}` | {reference} | {result.logits:.1e} | {result.batch_stats:.1e} "
            f"| {result.gradients:.1e} | {result.tensors} |"
        )
        print(lines[-1], flush=True)
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
