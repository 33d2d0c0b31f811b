"""Reads published weights from a file or the Hugging Face hub."""

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

# Keys under which checkpoints with more than a state dict store it.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin")


class NewClassifier(UserWarning):
    """The weights have a different number of classes, so the classifier is newly initialised."""


def load_pretrained(
    name: str, source: str | pathlib.Path, *, num_classes: int | None = None, **overrides: Any
) -> dict[str, Any]:
    """Reads published weights; returns a network's variables.

        variables = load_pretrained("se_resnet50_caffe", "timm/legacy_seresnet50.in1k")
        logits = create_model("se_resnet50_caffe").apply(variables, images, train=False)

    The size, mean and standard deviation of the images are in `se_flax.models.model_info(name)`.
    An auxiliary classifier that the weights lack is newly initialised. No code in a file is ever
    executed: a PyTorch file that contains more than tensors is rejected.

    A file does not show how its network computes. Two networks can have the same tensors but
    different strides (`resnet50` and `resnet50_caffe`), or a different padding and epsilon
    (`efficientnet_b0`, of TensorFlow, and `efficientnet_b0_torch`). Make sure that `name` is the
    network that the weights were trained for.

    Args:
        name: a name in `list_models()`.
        source: id of a Hugging Face hub repository with a `model.safetensors`; or path of a
            `.safetensors` file, of a PyTorch file with a state dict (.pth, .pt, .th, .bin) or,
            for `se_bn_inception`, of the `.caffemodel` that its authors released.
        num_classes: size of the classifier's output; by default that of the weights. For any
            other value the classifier is newly initialised, and a `NewClassifier` warning issued.
        **overrides: see `create_model`.

    Raises:
        UserError: if the source cannot be read, or its tensors do not fit the network. The
            message lists tensors that are missing, left over or of the wrong shape.
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
            f"the weights in {source} {have}; the backbone is loaded, and the classifier for "
            f"{num_classes} classes is newly initialised",
            NewClassifier,
            stacklevel=2,
        )
    model = create_model(name, num_classes or own_classes or 1000, **overrides)
    try:
        return convert(tensors, model, info.input_size, layouts, new_head)
    except UserError as error:
        raise UserError(f'{source} has no weights for "{name}": {error}') from error


def check_source(name: str, source: str | pathlib.Path) -> None:
    """Raises `UserError` if the source is known not to have weights for a network."""
    own = model_info(name).same_as or name
    of_others = [weights.model for weights in catalogue() if weights.source == str(source)]
    if of_others and own not in of_others:
        raise UserError(
            f'{source} has weights for "{of_others[0]}", not for "{name}"; '
            "python -m se_flax.pretrained lists the sources of each model"
        )
    hub_names = hub_names_of(own)
    if str(source).startswith("timm/") and not fnmatch.fnmatch(str(source), hub_names):
        raise UserError(
            f'{source} has no weights for "{name}", which computes differently from that network; '
            f"choose an id that matches {hub_names}"
        )
    if not layouts_of(name):
        raise UserError(
            f'no published weights are known for "{name}"; python -m se_flax.pretrained lists the '
            "models that have some"
        )


def read_tensors(source: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors in a hub repository or file; raises `UserError` if it is unreadable."""
    path = pathlib.Path(source).expanduser()
    if path.is_file():
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix in _TORCH_SUFFIXES:
            return _read_torch(path)
        if path.suffix == ".caffemodel":
            return read_caffe(path)
        raise UserError(
            f"{source} has an unknown file type; give a .safetensors, .caffemodel or PyTorch file "
            f"({', '.join(_TORCH_SUFFIXES)})"
        )
    files = (".safetensors", ".caffemodel", *_TORCH_SUFFIXES)
    if path.suffix in files or str(source).count("/") != 1:
        raise UserError(
            f"there is no file {source}; give an existing file or a hub id OWNER/REPOSITORY"
        )
    return _read_safetensors(_download(str(source)))


def _download(repository: str) -> pathlib.Path:
    huggingface_hub = _import("huggingface_hub.utils", "huggingface_hub")
    # The library warns at each attempt; only the outcome of the last one matters.
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
        raise UserError(f"{path} is damaged; download it again ({error})") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _import("torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or contains more than tensors, and reading it could run code; "
            "give a file with a state dict"
        ) from error
    except Exception as error:  # PyTorch raises many types for a damaged file
        reason = str(error).strip().partition("\n")[0] or "it ends too soon"
        raise UserError(f"{path} is damaged or not a PyTorch file: {reason}") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _CONTAINERS if key in content), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} must contain a state dict, a mapping from names to tensors")
    return {name.removeprefix("module."): value.float().numpy() for name, value in content.items()}


def _import(name: str, package: str | None = None) -> Any:
    package = package or name
    try:
        __import__(name)
        return __import__(package)
    except ImportError as error:
        raise UserError(
            f"reading these weights requires {package}; install it with pip install {package}"
        ) from error
