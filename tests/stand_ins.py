"""Stand-ins for published weights: small networks with random values, named as in a file."""

import contextlib
import json
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from se_flax import load_pretrained
from se_flax.pretrained.convert import Layout
from se_flax.pretrained.layouts import layouts_of

SMALL = {"stage_sizes": (1, 1), "widths": (4, 8), "stem": "cifar"}
STATED = {
    "input_size": [3, 160, 160],
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}


def tensors_of(
    name: str, model: nn.Module, size: int = 8, layout: Layout | None = None
) -> dict[str, np.ndarray]:
    """Returns random tensors of a network, named and ordered as published.

    Args:
        name: name under which the network is registered.
        model: the network, or a smaller form of it.
        size: height and width of images that it accepts.
        layout: how the tensors are named; by default the first in which weights are published.
    """
    layout = layout or layouts_of(name)[0]
    images = np.zeros((1, size, size, 3))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    generator = np.random.default_rng(0)
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = tuple(key.key for key in path)
        tensor = generator.uniform(0.1, 0.2, leaf.shape).astype(np.float32)
        if tensor.ndim > 1:  # from our order of axes to PyTorch's
            tensor = tensor.transpose(tensor.ndim - 1, tensor.ndim - 2, *range(tensor.ndim - 2))
        tensors[layout.name(path)] = np.ascontiguousarray(tensor)
    return tensors


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def load(source: str | pathlib.Path) -> dict[str, Any]:
    """Loads weights into a small ResNet-18."""
    return load_pretrained("resnet18", source, **SMALL)


def publish(
    file: pathlib.Path,
    config: dict[str, Any] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    metadata: dict[str, str] | None = None,
) -> pathlib.Path:
    """Writes weights (or an empty file) and a config.json next to them; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if weights is None:
        file.touch()
    else:
        import safetensors.numpy

        safetensors.numpy.save_file(weights, file, metadata)
    if config is not None:
        file.with_name("config.json").write_text(json.dumps(config))
    return file


class Hub:
    """A stand-in for the Hugging Face hub, with the files in a folder.

    Attributes:
        folder: OWNER/REPOSITORY/FILE for each file of the hub.
        asked: names of the files that were asked for.
        reachable: whether the hub answers.
    """

    def __init__(self, folder: pathlib.Path, monkeypatch: Any):
        import huggingface_hub.errors

        self.folder, self.asked, self.reachable = folder, [], True
        self._errors = huggingface_hub.errors
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self._download)

    def _download(self, repository: str, filename: str) -> str:
        self.asked.append(filename)
        if not self.reachable:
            raise self._errors.LocalEntryNotFoundError("no network\nlong story")
        path = self.folder / repository / filename
        if not path.is_file():
            raise self._errors.EntryNotFoundError(f"404: no {filename}")
        return str(path)

    def publish(self, repository: str, *content: Any, **further: Any) -> None:
        """Adds a repository; for its content, see `publish`."""
        publish(self.folder / repository / "model.safetensors", *content, **further)
