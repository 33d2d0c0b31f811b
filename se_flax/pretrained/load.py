"""Reads published weights from a file or a hub into the variables of our networks."""

import fnmatch
import pathlib
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from se_flax.errors import UserError
from se_flax.models import create_model, model_info
from se_flax.pretrained.caffe import read_caffe
from se_flax.pretrained.catalogue import catalogue
from se_flax.pretrained.convert import convert
from se_flax.pretrained.layouts import hub_names_of, layouts_of

# Under what a checkpoint keeps its state dict, beside other things.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin")


class NewClassifier(UserWarning):
    """Weights are for another number of classes, so the classifier is new and random."""


def load_pretrained(
    name: str, source: str | pathlib.Path, *, num_classes: int | None = None, **overrides: Any
) -> dict[str, Any]:
    """Returns a network's variables, read from published weights.

        variables = load_pretrained("se_resnet50_caffe", "timm/legacy_seresnet50.in1k")
        logits = create_model("se_resnet50_caffe").apply(variables, images, train=False)

    What images must be like (size, mean and standard deviation) is in
    `se_flax.models.model_info(name)`. Nothing in a file is ever executed: a PyTorch file that
    holds more than tensors is refused. What a file cannot show is how its network computes: the
    same tensors may be of one with its stride in another convolution (`resnet50` and
    `resnet50_caffe`) or another padding and epsilon (EfficientNet in TensorFlow, which is ours,
    and ports to PyTorch).

    Args:
        name: one of `list_models()`.
        source: id of a repository on the Hugging Face hub with a `model.safetensors`; or path
            of a `.safetensors` or a PyTorch file (.pth, .pt, .th, .bin) of a state dict; or, for
            `se_bn_inception`, of the `.caffemodel` that its authors released.
        num_classes: size of the classifier's output; by default that of the weights. With
            another one, the classifier is a new, random one, and a warning says so.
        **overrides: as for `create_model`.

    Raises:
        UserError: if the source cannot be read, or its tensors are not those of the network;
            the message lists what is missing, left over or of the wrong shape.
    """
    check_source(name, source)
    info, layouts = model_info(name), layouts_of(name)
    tensors = read_tensors(source)
    heads = [layout.name(("params", "classifier", "bias")) for layout in layouts]
    own_classes = next((len(tensors[head]) for head in heads if head in tensors), None)
    new_head = num_classes is not None and num_classes != own_classes
    if new_head:
        have = f"are for {own_classes} classes" if own_classes else "have no classifier"
        warnings.warn(
            f"the weights in {source} {have}; the body is kept, and the classifier of "
            f"{num_classes} is new and random",
            NewClassifier,
            stacklevel=2,
        )
    model = create_model(name, num_classes or own_classes or 1000, **overrides)
    try:
        return convert(tensors, model, info.input_size, layouts, new_head)
    except UserError as error:
        raise UserError(f'{source} does not hold weights of "{name}": {error}') from error


def check_source(name: str, source: str | pathlib.Path) -> None:
    """Raises `UserError` if the source is known to hold no weights of a network."""
    own = model_info(name).same_as or name
    of_others = [weights.model for weights in catalogue() if weights.source == str(source)]
    if of_others and own not in of_others:
        raise UserError(f'{source} are weights of "{of_others[0]}", not of "{name}"')
    hub_names = hub_names_of(own)
    if str(source).startswith("timm/") and not fnmatch.fnmatch(str(source), hub_names):
        raise UserError(
            f'{source} are not weights of "{name}", which computes otherwise than networks whose '
            f"id is not like {hub_names}"
        )
    if not layouts_of(name):
        raise UserError(f'no weights are known to be published for "{name}"')


def read_tensors(source: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a hub id or file by name; raises `UserError` if it cannot."""
    path = pathlib.Path(source).expanduser()
    if path.is_file():
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix in _TORCH_SUFFIXES:
            return _read_torch(path)
        if path.suffix == ".caffemodel":
            return read_caffe(path)
        raise UserError(
            f"{source} is neither a .safetensors nor a .caffemodel file, nor a PyTorch file "
            f"({', '.join(_TORCH_SUFFIXES)})"
        )
    files = (".safetensors", ".caffemodel", *_TORCH_SUFFIXES)
    if path.suffix in files or str(source).count("/") != 1:
        raise UserError(f"there is no file {source}")
    return _read_safetensors(_download(str(source)))


def _download(repository: str) -> pathlib.Path:
    huggingface_hub = _import("huggingface_hub.utils", "huggingface_hub")
    # It warns of each of its attempts; what matters is how the last one ends.
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot read model.safetensors of {repository} from the Hugging Face hub: {reason}"
        ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    safetensors = _import("safetensors.numpy", "safetensors")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _import("torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds more than tensors, and is not read, because that could "
            "run code"
        ) from error
    except Exception as error:  # of a damaged file, PyTorch raises many kinds
        reason = str(error).strip().partition("\n")[0] or "it ends too soon"
        raise UserError(f"{path} is damaged or not a PyTorch file: {reason}") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _CONTAINERS if key in content), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} does not hold a state dict, tensors by name")
    return {name.removeprefix("module."): value.float().numpy() for name, value in content.items()}


def _import(name: str, package: str | None = None) -> Any:
    package = package or name
    try:
        __import__(name)
        return __import__(package)
    except ImportError as error:
        raise UserError(
            f"these weights need {package} to be read: pip install {package}"
        ) from error
