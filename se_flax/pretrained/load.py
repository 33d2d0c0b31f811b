"""Reads published weights from a file or the Hugging Face hub."""

import contextlib
import pathlib
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from se_flax.detection.create import is_detector
from se_flax.errors import Note, UserError
from se_flax.models import create_model, model_info
from se_flax.models.registry import field_value
from se_flax.pretrained.architectures import (
    check_architecture,
    check_hub_id,
    lookalikes,
    of_hub_id,
)
from se_flax.pretrained.caffe import read_caffe
from se_flax.pretrained.catalogue import catalogue, find_weights
from se_flax.pretrained.convert import OWN, Layout, convert
from se_flax.pretrained.described import own_description, stated_architecture, stated_channels
from se_flax.pretrained.detectors import load_detector
from se_flax.pretrained.hub import (
    HUB_FILES,
    TORCH_SUFFIXES,
    download,
    import_package,
    is_hub_id,
)
from se_flax.pretrained.layouts import layouts_of, why_none
from se_flax.pretrained.torch_file import read_torch


class NewClassifier(Note):
    """The weights have a different number of classes, so the classifier is newly initialised."""


class NewAuxiliary(Note):
    """The weights have no auxiliary classifier, so that of the network is newly initialised."""


class UncertainNetwork(Note):
    """The weights may be for another network, whose tensors have the same names and shapes."""


def load_pretrained(
    name: str, source: str | pathlib.Path, *, num_classes: int | None = None, **overrides: Any
) -> dict[str, Any]:
    """Reads published weights; returns a network's variables.

        variables = load_pretrained("se_resnet50_caffe", "timm/legacy_seresnet50.in1k")
        logits = create_model("se_resnet50_caffe").apply(variables, images, train=False)

    `se_flax.pretrained.preparation(name, source)` returns how images must be prepared. No code in a
    file is ever executed: a PyTorch file that contains more than tensors is rejected.

    Tensors do not show how their network computes. Two networks can have the same tensors but
    different strides (`resnet50` and `resnet50_caffe`), or a different padding and epsilon
    (`efficientnet_b0`, of TensorFlow, and `efficientnet_b0_torch`). Weights that are stated to be
    for another network than `name` are refused. timm states the architecture in its hub ids, and
    other weights may have it in the `config.json` of their hub repository, in a `config.json` next
    to a file, in the metadata of a `.safetensors` file, or in the entry `arch` of a checkpoint of
    PyTorch; a file of the catalogue is recognised by its name. Where it is not stated, and
    `se_flax.pretrained.architectures` has other networks with the same tensors, an
    `UncertainNetwork` warning names them. Then make sure that `name` is the network that the
    weights were trained for. For CIFAR, a file without convolutions on the shortcuts must come from
    akamaster/pytorch_resnet_cifar10 or code with its shortcuts, which pad the channels on both
    sides.

    Weights without an auxiliary classifier (TensorFlow's for `inception_v3`) can be loaded into a
    network that has one. It is newly initialised, and a `NewAuxiliary` warning issued. Only
    training uses it; `auxiliary=False` builds the network without.

    For a detector (`se_flax.detection`), the source is a file with a state dict of torchvision's
    `fasterrcnn_resnet50_fpn` or `fasterrcnn_resnet50_fpn_v2`.

    Args:
        name: a name in `list_models()`, or of a detector.
        source: id of a Hugging Face hub repository with a `model.safetensors` or, if it has none,
            a `pytorch_model.bin`; or path of a `.safetensors` file, of a PyTorch file with a state
            dict (.pth, .pt, .th, .bin, .tar) or, for `se_bn_inception`, of the `.caffemodel` that
            its authors released.
        num_classes: size of the classifier's output; by default that of the weights. For any
            other value the classifier is newly initialised, and a `NewClassifier` warning issued.
        **overrides: see `create_model`.

    Raises:
        UserError: if the source cannot be read, or its tensors do not fit the network. The
            message lists tensors that are missing, left over or of the wrong shape. Also if they
            are stated to be for another network.
    """
    if is_detector(name):
        return load_detector(name, source, read_tensors(source), num_classes, **overrides)
    read = _read_checked(name, source)
    return _variables(name, source, read, num_classes, overrides)


def load_with_fields(
    name: str, source: str | pathlib.Path, **overrides: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads published weights for the network that they are for, which may differ from `name`.

    Returns:
        The fields of that network, which are `overrides` and those in which it differs; and its
        variables, as `load_pretrained` returns them.

    Raises:
        UserError: see `load_pretrained`.
    """
    read = _read_checked(name, source)
    fields = {**_fields_of_weights(name, read), **overrides}
    return fields, _variables(name, source, read, None, fields)


class _Read(NamedTuple):
    """What was read from a source.

    Attributes:
        tensors: its tensors by name.
        doubt: what to tell the user if they may be for another network; None otherwise.
        own: what is stated with them if they are in our own layout (see `own_description`).
    """

    tensors: dict[str, np.ndarray]
    doubt: str | None
    own: dict[str, Any] | None


def _variables(
    name: str,
    source: str | pathlib.Path,
    read: _Read,
    num_classes: int | None,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    tensors = read.tensors
    layouts = _layouts(name, read)
    channels, size = _shape_of_images(name, source, read)
    layout = _layout_by_classifier(layouts, tensors)
    _check_fields(name, source, read, overrides)
    own_classes = tensors[_classifier(layout)].size if layout else None
    new_head = num_classes is not None and num_classes != own_classes
    if new_head:
        have = f"are for {own_classes} classes" if own_classes else "have no classifier"
        warnings.warn(
            f"the weights in {source} {have}; the backbone is loaded, and the classifier for "
            f"{num_classes} classes is newly initialised",
            NewClassifier,
            stacklevel=3,
        )
    wanted = own_classes or 1000 if num_classes is None else num_classes
    model = create_model(name, wanted, **overrides)
    try:
        variables = convert(tensors, model, size, layouts, new_head, channels)
    except UserError as error:
        raise UserError(f'{source} has no weights for "{name}": {error}') from error
    if read.doubt:
        warnings.warn(read.doubt, UncertainNetwork, stacklevel=3)
    if "auxiliary_classifier" in variables["params"] and not _has_auxiliary(tensors, layouts):
        warnings.warn(
            f"the weights in {source} have no auxiliary classifier; it is newly initialised "
            "(only training uses it, and auxiliary=False builds the network without)",
            NewAuxiliary,
            stacklevel=3,
        )
    return variables


def _layouts(name: str, read: _Read) -> tuple[Layout, ...]:
    return (OWN,) if read.own else layouts_of(name)


def _shape_of_images(name: str, source: str | pathlib.Path, read: _Read) -> tuple[int, int]:
    """Returns the number of channels, and the height and width, of a network's images."""
    if read.own is None:
        return stated_channels(source), model_info(name).input_size
    channels, size, _ = read.own["pretrained_cfg"]["input_size"]
    return channels, size


def _fields_of_weights(name: str, read: _Read) -> dict[str, Any]:
    """Returns the fields in which the network of the weights differs from the registered one."""
    if read.own:
        fields = read.own.get("model_args", {})
        return {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
    layout = _layout_by_classifier(layouts_of(name), read.tensors)
    return dict(layout.fields) if layout else {}


def _check_fields(
    name: str, source: str | pathlib.Path, read: _Read, overrides: dict[str, Any]
) -> None:
    """Raises `UserError` if the weights are for a network with other fields than the given ones."""
    layout = _layout_by_classifier(_layouts(name, read), read.tensors)
    for field, value in _fields_of_weights(name, read).items():
        if field_value(name, field, overrides) != value:
            why = "is" if layout is OWN else f"has {layout.source} tensor names, so it is"
            raise UserError(
                f'{source} {why} for "{name}" with {field}={value!r}; give this field to '
                "load_pretrained and create_model, or set it in config.model.overrides"
            )


def _has_auxiliary(tensors: Mapping[str, np.ndarray], layouts: tuple[Layout, ...]) -> bool:
    return any(re.match(layout.optional, tensor) for layout in layouts for tensor in tensors)


def _read_checked(name: str, source: str | pathlib.Path) -> _Read:
    """Reads a source.

    Raises:
        UserError: before the tensors are read, if they are stated to be for another network.
    """
    if own := check_source(name, source):
        return _Read(read_tensors(source), None, own)
    stated = of_timm = of_hub_id(source)
    if not of_timm:
        # Reading the tensors reports a hub that cannot be reached.
        with contextlib.suppress(UserError):
            stated = stated_architecture(source)
    library = "timm" if of_timm else None
    doubt = check_architecture(name, source, stated, library) if stated else None
    tensors = read_tensors(source)
    if not stated and not find_weights(name, source):
        doubt = lookalikes(name, source, tensors)
    return _Read(tensors, doubt, None)


def _classifier(layout: Layout) -> str:
    return layout.name(("params", "classifier", "bias"))


def _layout_by_classifier(layouts: tuple[Layout, ...], names: Collection[str]) -> Layout | None:
    return next((layout for layout in layouts if _classifier(layout) in names), None)


def check_source(name: str, source: str | pathlib.Path) -> dict[str, Any] | None:
    """Raises `UserError` if the source is known not to have weights for a network.

    Returns what is stated with weights in our own layout (see `own_description`), and None for
    others.
    """
    own = model_info(name).same_as or name
    if stated := own_description(source):
        other = stated["architecture"]
        if own != (model_info(other).same_as or other):
            raise UserError(f'{source} has weights for "{other}", not for "{name}"')
        return stated
    file = pathlib.PurePath(source).name
    of_others = [
        weights.model
        for weights in catalogue()
        if str(source) == weights.source or (file and file == weights.file)
    ]
    if of_others and own not in of_others:
        raise UserError(
            f'{source} has weights for "{of_others[0]}", not for "{name}"; '
            "python -m se_flax.pretrained lists the sources of each model"
        )
    if not layouts_of(name):
        reason = why_none(name)
        why = f" as it is registered: {reason}" if reason else ""
        raise UserError(
            f'no published weights are known for "{name}"{why}; python -m se_flax.pretrained lists '
            "the models that have some"
        )
    check_hub_id(name, source)
    return None


def find_file(source: str | pathlib.Path) -> pathlib.Path | None:
    """Returns the file that a source names, or None for a hub id; raises `UserError` for others.

    A file in Google Cloud Storage is copied to the cache.
    """
    if str(source).partition("://")[0] in ("http", "https"):
        raise UserError(f"{source} is not downloaded; download it and give the path of the file")
    from se_flax.runtime.paths import local_copy, to_path

    path = to_path(source)
    if path.is_file():
        return local_copy(path)
    if path.is_dir():
        raise UserError(f"{source} is a folder; give the path of the file with the weights in it")
    if not is_hub_id(source):
        raise UserError(
            f"there is no file {source}; give an existing file or a hub id OWNER/REPOSITORY"
        )
    return None


def read_tensors(source: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors in a hub repository or file; raises `UserError` if it is unreadable."""
    path = find_file(source)
    if path is None:
        return _read_hub(str(source))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return read_torch(path)
    if path.suffix == ".caffemodel":
        return read_caffe(path)
    if path.suffix == ".zip":
        raise UserError(f"{source} is an archive; unzip it and give the file in it")
    raise UserError(
        f"{source} has an unknown file type; give a .safetensors, .caffemodel or PyTorch file "
        f"({', '.join(TORCH_SUFFIXES)})"
    )


def _read_hub(repository: str) -> dict[str, np.ndarray]:
    safe, pickled = HUB_FILES
    if path := download(repository, safe, optional=True):
        return _read_safetensors(path)
    if path := download(repository, pickled, optional=True):
        return read_torch(path)
    raise UserError(
        f"{repository} has no {safe} and no {pickled} on the Hugging Face hub; give a repository "
        "that has one of them, or a file"
    )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    safetensors = import_package("safetensors.numpy", "safetensors")
    try:
        return safetensors.numpy.load_file(path)
    except AttributeError as error:  # NumPy lacks the type of a tensor
        raise UserError(
            f"{path} has tensors of a type that cannot be read ({error}); save them as float32"
        ) from error
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged; download it again ({error})") from error
