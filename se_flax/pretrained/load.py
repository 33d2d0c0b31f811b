"""Reads published weights from a file or the Hugging Face hub."""

import contextlib
import pathlib
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from se_flax.errors import Note, UserError
from se_flax.models import create_model, model_info
from se_flax.pretrained.architectures import (
    check_architecture,
    check_hub_id,
    lookalikes,
    of_hub_id,
)
from se_flax.pretrained.caffe import read_caffe
from se_flax.pretrained.catalogue import catalogue
from se_flax.pretrained.convert import Layout, convert
from se_flax.pretrained.described import stated_architecture
from se_flax.pretrained.hub import TORCH_SUFFIXES, download, import_package, is_hub_id
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
    to a file, or in the metadata of a `.safetensors` file. Where it is not stated, and
    `se_flax.pretrained.architectures` has other networks with the same tensors, an
    `UncertainNetwork` warning names them. Then make sure that `name` is the network that the
    weights were trained for. For CIFAR, a file without convolutions on the shortcuts must come from
    akamaster/pytorch_resnet_cifar10 or code with its shortcuts, which pad the channels on both
    sides.

    Weights without an auxiliary classifier (TensorFlow's for `inception_v3`) can be loaded into a
    network that has one. It is newly initialised, and a `NewAuxiliary` warning issued. Only
    training uses it; `auxiliary=False` builds the network without.

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
            message lists tensors that are missing, left over or of the wrong shape. Also if they
            are stated to be for another network.
    """
    check_source(name, source)
    doubt = _doubt(name, source)
    info, layouts = model_info(name), layouts_of(name)
    tensors = read_tensors(source)
    layout = _layout_by_classifier(layouts, tensors)
    _check_fields(name, source, layout, {**info.fields, **overrides})
    own_classes = len(tensors[_classifier(layout)]) if layout else None
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
        variables = convert(tensors, model, info.input_size, layouts, new_head)
    except UserError as error:
        raise UserError(f'{source} has no weights for "{name}": {error}') from error
    if doubt:
        warnings.warn(doubt, UncertainNetwork, stacklevel=2)
    if "auxiliary_classifier" in variables["params"] and not _has_auxiliary(tensors, layouts):
        warnings.warn(
            f"the weights in {source} have no auxiliary classifier; it is newly initialised "
            "(only training uses it, and auxiliary=False builds the network without)",
            NewAuxiliary,
            stacklevel=2,
        )
    return variables


def _check_fields(
    name: str, source: str | pathlib.Path, layout: Layout | None, fields: dict[str, Any]
) -> None:
    """Raises `UserError` if the weights are for a network with other fields than the given ones."""
    for field, value in layout.fields if layout else ():
        if fields.get(field) != value:
            raise UserError(
                f'{source} is for "{name}" with {field}={value!r}; give this field to '
                "load_pretrained and create_model, or set it in config.model.overrides"
            )


def _has_auxiliary(tensors: Mapping[str, np.ndarray], layouts: tuple[Layout, ...]) -> bool:
    return any(re.match(layout.optional, tensor) for layout in layouts for tensor in tensors)


def _doubt(name: str, source: str | pathlib.Path) -> str | None:
    """Returns what to tell the user if the weights may be for another network.

    Raises:
        UserError: if it is stated that they are for another network.
    """
    stated = of_hub_id(source)
    if stated is None:
        # Reading the tensors reports a hub that cannot be reached.
        with contextlib.suppress(UserError):
            stated = stated_architecture(source)
    return check_architecture(name, source, stated) if stated else lookalikes(name, source)


def fields_of(name: str, source: str | pathlib.Path) -> dict[str, Any]:
    """Returns the fields in which the network that weights are for differs from `name`.

    Raises:
        UserError: if the source cannot be read.
    """
    check_source(name, source)
    layouts = layouts_of(name)
    if not any(layout.fields for layout in layouts):
        return {}
    layout = _layout_by_classifier(layouts, read_tensors(source))
    return dict(layout.fields) if layout else {}


def _classifier(layout: Layout) -> str:
    return layout.name(("params", "classifier", "bias"))


def _layout_by_classifier(layouts: tuple[Layout, ...], names: Collection[str]) -> Layout | None:
    return next((layout for layout in layouts if _classifier(layout) in names), None)


def check_source(name: str, source: str | pathlib.Path) -> None:
    """Raises `UserError` if the source is known not to have weights for a network."""
    own = model_info(name).same_as or name
    of_others = [weights.model for weights in catalogue() if weights.source == str(source)]
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


def read_tensors(source: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors in a hub repository or file; raises `UserError` if it is unreadable."""
    if str(source).startswith(("http://", "https://")):
        raise UserError(f"{source} is not downloaded; download it and give the path of the file")
    from se_flax.runtime.paths import local_copy, to_path

    path = to_path(source)
    if path.is_file():
        path = local_copy(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix in TORCH_SUFFIXES:
            return read_torch(path)
        if path.suffix == ".caffemodel":
            return read_caffe(path)
        raise UserError(
            f"{source} has an unknown file type; give a .safetensors, .caffemodel or PyTorch file "
            f"({', '.join(TORCH_SUFFIXES)})"
        )
    if not is_hub_id(source):
        raise UserError(
            f"there is no file {source}; give an existing file or a hub id OWNER/REPOSITORY"
        )
    return _read_safetensors(download(str(source), "model.safetensors"))


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    safetensors = import_package("safetensors.numpy", "safetensors")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged; download it again ({error})") from error
