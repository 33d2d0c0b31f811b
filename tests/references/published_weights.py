"""Reads files like those of the catalogue: python -m tests.references.published_weights.

`--missing` measures only what the table lacks, for example after an interruption.

Each file is written as its publisher writes it (by timm for the Hugging Face hub, by torchvision as
a state dict) from the publisher's own network with random weights; what is compared are the logits
of that network and of ours.
"""

import argparse
import dataclasses
import functools
import pathlib
import platform
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from unittest import mock

import huggingface_hub
import jax
import numpy as np

from se_flax import create_model, load_pretrained
from se_flax.errors import Note
from se_flax.models import model_info
from se_flax.pretrained.catalogue import PublishedWeights, catalogue
from tests.references import torch_models
from tests.references.comparison import deviation

ODD = (161, 133)  # height and width


def imagenet_entries() -> list[PublishedWeights]:
    """Returns the entries of the catalogue for ImageNet; `cifar_models` has networks for others."""
    return [weights for weights in catalogue() if weights.dataset == "imagenet2012"]


def compare_weights(
    weights: PublishedWeights, sizes: Sequence[tuple[int, int]]
) -> list[tuple[float, float]]:
    """Loads a file like that of an entry of the catalogue for ImageNet, and compares logits.

    Returns, for each size [height, width], the deviation of our logits from the publisher's and
    the standard deviation of the publisher's.
    """
    # The statistics of much smaller images would let the activations of a deep network explode.
    theirs = (_torchvision_network if weights.file else _timm_network)(weights, sizes[0][0])
    fields = _fields(weights)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error", Note)  # the catalogue knows what network they are for
        load = _load_file if weights.file else _load_from_hub
        variables = load(weights, theirs, pathlib.Path(folder), fields)
    ours = create_model(weights.model, **fields)
    results = []
    for size in sizes:
        images = np.random.default_rng(0).standard_normal((1, *size, 3), np.float32)
        expected = torch_models.logits(theirs, _normalised_as_theirs(weights, images))
        logits = jax.jit(ours.apply)(variables, images)
        results.append((deviation(logits, expected), float(np.std(expected))))
    return results


def _timm_network(weights: PublishedWeights, size: int) -> Any:
    owner, _, name = weights.source.partition("/")
    assert owner == "timm", weights.source
    return torch_models.randomise(torch_models.build(f"timm:{name}"), size)


def _torchvision_network(weights: PublishedWeights, size: int) -> Any:
    """Returns the network that torchvision builds for these weights, with random ones in it."""
    name, entry = _torchvision_entries()[weights.source]
    state = torch_models.randomise(torch_models.build(f"torchvision:{name}"), size).state_dict()
    with mock.patch.object(type(entry), "get_state_dict", return_value=state):  # fetches nothing
        return torch_models.torchvision.models.get_model(name, weights=entry).eval()


@functools.cache
def _torchvision_entries() -> dict[str, tuple[str, Any]]:
    """Returns, by address, torchvision's name of a network and its description of the weights."""
    models = torch_models.torchvision.models
    return {
        entry.url: (name, entry)
        for name in models.list_models(module=models)
        for entry in models.get_model_weights(name)
    }


def _fields(weights: PublishedWeights) -> dict[str, Any]:
    """Returns the fields of ours: timm's networks have no auxiliary classifier."""
    fields = {field.name for field in dataclasses.fields(model_info(weights.model).module)}
    return {"auxiliary": False} if "auxiliary" in fields and not weights.file else {}


def _load_from_hub(
    weights: PublishedWeights, theirs: Any, folder: pathlib.Path, fields: dict[str, Any]
) -> dict[str, Any]:
    torch_models.timm.models.save_for_hf(theirs, folder, safe_serialization=True)
    files = {weights.source: folder}

    def download(repository: str, filename: str) -> str:
        return str(files[repository] / filename)

    with mock.patch.object(huggingface_hub, "hf_hub_download", download):
        return load_pretrained(weights.model, weights.source, **fields)


def _load_file(
    weights: PublishedWeights, theirs: Any, folder: pathlib.Path, fields: dict[str, Any]
) -> dict[str, Any]:
    torch_models.torch.save(theirs.state_dict(), folder / weights.file)
    return load_pretrained(weights.model, folder / weights.file, **fields)


def _normalised_as_theirs(weights: PublishedWeights, images: np.ndarray) -> np.ndarray:
    """Returns images that are normalised for our network as its publisher normalises them.

    torchvision's Inception-v3 normalises images again, so that its mean and std differ from ours.
    """
    if not weights.file:
        return images
    ours, theirs = weights.preparation, _torchvision_entries()[weights.source][1].transforms()
    return (images * np.array(ours.std) + ours.mean - theirs.mean) / theirs.std


def main() -> None:
    """Compares all entries of the catalogue for ImageNet and writes what was measured."""
    parser = argparse.ArgumentParser(description="Compares weights as published with ours.")
    parser.add_argument(
        "file", nargs="?", default="experiments/results/pretrained_parity.md", type=pathlib.Path
    )
    parser.add_argument(
        "--missing",
        action="store_true",
        help="measure only what the file lacks, if it was written with the same versions",
    )
    options = parser.parse_args()
    heading = _heading()
    entries = {row_start(weights): weights for weights in imagenet_entries()}
    kept = _rows(options.file, heading) if options.missing else []
    rows = {start: row for start in entries for row in kept if row.startswith(start)}
    options.file.parent.mkdir(parents=True, exist_ok=True)
    for start, weights in entries.items():
        if start in rows:
            continue
        size = weights.input_size
        (square, _), (odd, _) = compare_weights(weights, [(size, size), ODD])
        rows[start] = f"{start} {square:.1e} | {odd:.1e} |"
        print(rows[start], flush=True)
        if not max(square, odd) < 1e-4:
            raise AssertionError(f"{weights.source} gives other logits in {weights.model}")
        in_order = [rows[start] for start in entries if start in rows]
        options.file.write_text("\n".join([*heading, *in_order]) + "\n")


def _heading() -> list[str]:
    packages = ("jax", "torch", "torchvision", "timm")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return [
        "# Published weights, read by this package and by their publishers",
        "",
        "Written by `python -m tests.references.published_weights`, on a "
        f"{jax.devices()[0].platform.upper()} with Python {platform.python_version()}, {versions}.",
        "",
        "One row per entry of the catalogue for ImageNet (`python -m se_flax.pretrained`). The",
        "publisher's network, with random weights and batch-norm statistics, was saved and then",
        "read by `load_pretrained`: timm's as timm saves it for the Hugging Face hub, and",
        "torchvision's as a state dict in a file of that name. The deviation is the largest",
        "difference of two logits, ours in float32 and the publisher's in float64, relative to the",
        "largest logit: for one image of the entry's size, and for one of "
        f"{ODD[0]} x {ODD[1]} pixels.",
        "",
        f"| network | weights | size | deviation | at {ODD[0]} x {ODD[1]} |",
        "|---|---|---:|---:|---:|",
    ]


def _rows(file: pathlib.Path, heading: list[str]) -> list[str]:
    """Returns the rows of a table that starts with the given heading; none of any other file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return lines[len(heading) :] if lines[: len(heading)] == heading else []


def row_start(weights: PublishedWeights) -> str:
    """Returns the start of an entry's row in the table: network, weights and size."""
    return f"| `{weights.model}` | {weights.file or weights.source} | {weights.input_size} |"


if __name__ == "__main__":
    main()
