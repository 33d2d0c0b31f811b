"""Reads files like those of the catalogue: python -m tests.references.published_weights [FILE].

Each file is written by timm, as for the Hugging Face hub, from its own network of that name with
random weights; what is compared are the logits of that network and of ours.
"""

import dataclasses
import pathlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from unittest import mock

import huggingface_hub
import jax
import numpy as np

from se_flax import create_model, load_pretrained
from se_flax.models import model_info
from se_flax.pretrained.catalogue import PublishedWeights, catalogue
from tests.references import torch_models
from tests.references.comparison import deviation

ODD = (161, 133)  # height and width


def compare_weights(
    weights: PublishedWeights, sizes: Sequence[tuple[int, int]]
) -> list[tuple[float, float]]:
    """Loads a file like that of an entry of the catalogue, and compares logits.

    Returns, for each size [height, width], the deviation of our logits from timm's and the
    standard deviation of timm's.
    """
    owner, _, name = weights.source.partition("/")
    assert owner == "timm", weights.source
    # The statistics of much smaller images would let the activations of a deep network explode.
    theirs = torch_models.timm.create_model(name, pretrained=False)
    theirs = torch_models.randomise(theirs, sizes[0][0])
    has_auxiliary = any(f.name == "auxiliary" for f in dataclasses.fields(_module(weights)))
    fields = {"auxiliary": False} if has_auxiliary else {}
    with tempfile.TemporaryDirectory() as folder:
        torch_models.timm.models.save_for_hf(theirs, folder, safe_serialization=True)
        files = {weights.source: pathlib.Path(folder)}

        def download(repository: str, filename: str) -> str:
            return str(files[repository] / filename)

        with mock.patch.object(huggingface_hub, "hf_hub_download", download):
            variables = load_pretrained(weights.model, weights.source, **fields)
    ours = create_model(weights.model, **fields)
    results = []
    for size in sizes:
        images = np.random.default_rng(0).standard_normal((1, *size, 3), np.float32)
        expected = torch_models.logits(theirs, images)
        logits = jax.jit(ours.apply)(variables, images)
        results.append((deviation(logits, expected), float(np.std(expected))))
    return results


def main(path: str = "experiments/results/pretrained_parity.md") -> None:
    """Compares all entries of the catalogue and writes what was measured."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("jax", "torch", "timm"))
    lines = [
        "# Published weights, read by this package and by timm",
        "",
        "Written by `python -m tests.references.published_weights`, on a "
        f"{jax.devices()[0].platform.upper()} with Python {platform.python_version()}, {versions}.",
        "",
        "One row per entry of the catalogue (`python -m se_flax.pretrained`). timm's network of",
        "that name, with random weights and batch-norm statistics, was saved as timm saves it for",
        "the Hugging Face hub and read by `load_pretrained`. The deviation is the largest",
        "difference of two logits, ours in float32 and timm's in float64, relative to the largest",
        "logit: for one image of the entry's size, and for one of",
        f"{ODD[0]} x {ODD[1]} pixels.",
        "",
        f"| network | weights | size | deviation | at {ODD[0]} x {ODD[1]} |",
        "|---|---|---:|---:|---:|",
    ]
    for weights in catalogue():
        if weights.file:  # not on the hub
            continue
        size = weights.input_size
        (square, _), (odd, _) = compare_weights(weights, [(size, size), ODD])
        lines.append(
            f"| `{weights.model}` | {weights.source} | {size} | {square:.1e} | {odd:.1e} |"
        )
        print(lines[-1], flush=True)
        if not max(square, odd) < 1e-4:
            raise AssertionError(f"{weights.source} gives other logits in {weights.model}")
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def _module(weights: PublishedWeights) -> type:
    return model_info(weights.model).module


if __name__ == "__main__":
    main(*sys.argv[1:])
