"""Searches timm, torchvision and pretrainedmodels for networks with the tensors of one of ours.

python -m tests.references.lookalikes [FILE]
"""

import functools
import pathlib
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from se_flax import create_model, list_models
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.pretrained.architectures import check_architecture, lookalikes
from se_flax.pretrained.convert import Layout, convert
from se_flax.pretrained.layouts import layouts_of
from tests.references import torch_models
from tests.references.torch_models import pretrainedmodels, timm, torchvision

Shapes = dict[str, tuple[int, ...]]


def architectures() -> list[str]:
    """Returns `library:name` for every image classifier of the three libraries."""
    of_torchvision = [
        name
        for module in (torchvision.models, torchvision.models.quantization)
        for name in torchvision.models.list_models(module=module)
    ]
    return [
        *(f"timm:{name}" for name in timm.list_models()),
        *(f"torchvision:{name}" for name in sorted(set(of_torchvision))),
        *(f"pretrainedmodels:{name}" for name in sorted(pretrainedmodels.model_names)),
    ]


def _on_cpu(function, *args, **options):
    with torch.device("cpu"):
        return function(*args, **options)


@functools.cache
def shapes_of(architecture: str) -> Shapes:
    """Returns the shapes of an architecture's tensors by name; computes none of them."""
    # RegNets compute their widths with tensors, which must have values.
    make = functools.partial(_on_cpu, torchvision.models.regnet.BlockParams.from_init_params)
    values = mock.patch.object(torchvision.models.regnet.BlockParams, "from_init_params", make)
    with values, torch.device("meta"):
        state = torch_models.build(architecture).state_dict()
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and not name.endswith("num_batches_tracked")
    }


@functools.cache
def _expected(name: str) -> list[tuple[Layout, frozenset[str]]]:
    """Returns the names of a network's tensors in each layout in which it is published."""
    model, size = create_model(name), model_info(name).input_size
    images = jnp.zeros((1, size, size, 3))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    paths = [tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(abstract)]
    return [(layout, frozenset(map(layout.name, paths))) for layout in layouts_of(name)]


def fits(name: str, shapes: Shapes) -> bool:
    """Whether `load_pretrained` would find a network's tensors, no more and no others."""

    def relevant(names, layout):
        return {tensor for tensor in names if not re.match(layout.ignored, tensor)}

    if not any(
        relevant(shapes, layout) == relevant(names, layout) for layout, names in _expected(name)
    ):
        return False
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    try:
        convert(tensors, create_model(name), model_info(name).input_size, layouts_of(name))
    except UserError:
        return False
    return True


def pairs() -> Iterator[tuple[str, str]]:
    """Yields (our network, architecture) for each architecture whose tensors fit the network."""
    ours = [name for name in list_models() if layouts_of(name) and not model_info(name).same_as]
    for architecture in architectures():
        shapes = shapes_of(architecture)
        yield from ((name, architecture) for name in ours if fits(name, shapes))


def computes_the_same(one: str, other: str) -> bool:
    """Whether two architectures with the same tensors give the same logits, in float64.

    An even and an odd size, because some forms of padding and pooling differ in one of them only.
    The networks of pretrainedmodels accept only the published size.
    """
    only_published = "pretrainedmodels" in one + other
    size = 224 if only_published else 129
    if "inception" in one and "bninception" not in one:
        size = 299
    first = torch_models.randomise(torch_models.build(one), size)
    second = torch_models.build(other)
    state, theirs = first.state_dict(), second.state_dict()
    if not theirs.keys() <= state.keys():  # the same tensors in the same order, by other names
        state = dict(zip(theirs, state.values(), strict=True))
    second.load_state_dict({key: state[key].reshape(theirs[key].shape) for key in theirs})
    for side in (size,) if only_published else (size, size - 1):
        images = np.random.default_rng(0).standard_normal((1, side, side, 3), np.float32)
        expected, actual = (torch_models.logits(model.eval(), images) for model in (first, second))
        if not np.allclose(actual, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected))):
            return False
    return True


def main(path: str = "experiments/results/lookalikes.md") -> None:
    """Searches all architectures and writes what `load_pretrained` says to each."""
    versions = (f"{name} {version(name)}" for name in ("timm", "torchvision", "pretrainedmodels"))
    lines = [
        "# Architectures with the tensors of our networks",
        "",
        f"Written by `python -m tests.references.lookalikes`, with {', '.join(versions)}.",
        "",
        f"Of {len(architectures())} architectures, those whose tensors have the names and shapes",
        "of one of our networks, and what `load_pretrained` does with their weights: if they state",
        "the architecture (in a hub id of timm, a `config.json` or the metadata of a file), and",
        "if they are a bare file.",
        "",
        "| our network | architecture | if stated | bare file |",
        "|---|---|---|---|",
    ]
    for name, architecture in sorted(pairs()):
        note = lookalikes(name, "x", shapes_of(architecture))
        bare = "loads, with a note" if note else "loads"
        lines.append(f"| `{name}` | {architecture} | {_stated(name, architecture)} | {bare} |")
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def _stated(name: str, architecture: str) -> str:
    try:
        note = check_architecture(name, "x", architecture.partition(":")[2])
    except UserError:
        return "refused"
    return "loads, with a note" if note else "loads"


if __name__ == "__main__":
    main(*sys.argv[1:])
