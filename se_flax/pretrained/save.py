"""Writes weights as safetensors, under our own names or those of a PyTorch library."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from se_flax.errors import UserError
from se_flax.models import Preparation, create_model, model_info
from se_flax.pretrained.architectures import architectures
from se_flax.pretrained.convert import OWN, Layout, convert_back
from se_flax.pretrained.described import OWN_LIBRARY
from se_flax.pretrained.hub import import_package
from se_flax.pretrained.layouts import layouts_of

LIBRARIES = ("timm", "torchvision", "pretrainedmodels", "akamaster", "chenyaofo", "pytorchcv")
# Fields that change nothing in an evaluation.
_OF_TRAINING = {"auxiliary", "dropout", "norm_momentum", "stochastic_depth", "zero_init"}


def to_safetensors(
    name: str,
    variables: Mapping[str, Any],
    *,
    layout: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    preparation: Preparation | None = None,
    class_names: Sequence[str] | None = None,
    loss: str = "softmax",
    multi_label: bool = False,
) -> bytes:
    """Returns the content of a `.safetensors` file with a network's variables.

        pathlib.Path("own.safetensors").write_bytes(to_safetensors("se_resnet50", variables))
        load_pretrained("se_resnet50", "own.safetensors")  # the same variables, bit for bit

        file.write_bytes(to_safetensors("se_resnet50", variables, layout="timm"))
        # in timm: create_model("seresnet50", checkpoint_path="timm.safetensors")

    The metadata of the file state the network, how its images are prepared, and its classes, in
    the form of timm's `config.json`, under the key `se_flax`. `load_pretrained`,
    `se_flax.pretrained.preparation` and `se_flax.pretrained.class_names` read them.

    In the layout of a library, the names, axes and order of channels are the library's, and
    `load_state_dict(strict=True)` of its network takes the tensors. timm builds `inception_v3`
    without the auxiliary classifier, which is left out for it. torchvision builds it with one; if
    the variables have none, build it by `inception_v3(aux_logits=False)`.

    Args:
        name: a name in `list_models()`.
        variables: of that network; only `params` and `batch_stats` are written.
        layout: a library in `LIBRARIES`; by default, tensors have our own names and axes.
        overrides: fields in which the network differs from the registered one (see
            `create_model`), as plain values.
        preparation: how images are prepared; by default as for the published network.
        class_names: name of each class, in the order of the logits.
        loss, multi_label: what the logits mean, see `se_flax.loaded.LoadedRun`.

    Raises:
        UserError: if the variables are not the network's, the library has no network that computes
            the same, or an override is not a plain value.
    """
    safetensors = import_package("safetensors.numpy", "safetensors")
    fields = plain_fields(name, overrides or {})
    prepared = preparation or model_info(name).preparation
    channels = len(prepared.mean)
    held = {kind: variables[kind] for kind in ("params", "batch_stats") if kind in variables}
    if layout is None:
        _check_shapes(name, held, fields, prepared.size, channels)
        tensors = convert_back(held, OWN)
    else:
        theirs = layout_for(name, layout, fields)
        _check_shapes(name, held, dict(theirs.fields), model_info(name).input_size, channels)
        tensors = convert_back(held, theirs, auxiliary=layout != "timm")
    classes = len(held["params"]["classifier"]["bias"])
    stated = describe(
        name, classes, prepared, class_names, fields, layout, loss=loss, multi_label=multi_label
    )
    metadata = {OWN_LIBRARY: json.dumps(stated)}
    if layout:
        metadata["format"] = "pt"  # libraries ask for it
    return safetensors.numpy.save(tensors, metadata)


def layout_for(name: str, library: str, fields: Mapping[str, Any] | None = None) -> Layout:
    """Returns the layout in which a library reads the weights of a registered network.

    Args:
        name: a name in `list_models()`.
        library: one of `LIBRARIES`.
        fields: plain values of fields in which the network differs from the registered one.

    Raises:
        UserError: if the library has no network that computes the same.
    """
    possible = {each: found for each in LIBRARIES if (found := _layout(name, each))}
    if library not in possible:
        if library not in LIBRARIES:
            why = f"there is no layout {library!r}"
        else:
            why = f'{library} has no network that computes the same as "{name}"'
        others = " or ".join(f"layout={each}" for each in possible)
        raise UserError(f"{why}; use {f'{others}, or ' if others else ''}our own layout")
    info = model_info(name)
    usual = {field.name: field.default for field in dataclasses.fields(info.module)} | info.fields
    wanted, own = usual | dict(possible[library].fields), usual | dict(fields or {})
    different = [
        key
        for key, value in own.items()
        if key not in _OF_TRAINING and _as_lists(value) != _as_lists(wanted.get(key))
    ]
    if different:
        shown = ", ".join(f"{key}={own[key]!r}" for key in different)
        raise UserError(
            f'{library}\'s network differs from this "{name}" with {shown}; use our own layout'
        )
    return possible[library]


def architecture_of(name: str, library: str) -> str | None:
    """Returns the name of a library's network that computes the same, or None if none is known."""
    own = model_info(name).same_as or name
    found = (one for one in architectures() if (one.library, one.computed_by) == (library, own))
    return next((one.name for one in found), None)


def _layout(name: str, library: str) -> Layout | None:
    known = {one.library for one in architectures()}
    if library in known and architecture_of(name, library) is None:
        return None
    return next((one for one in layouts_of(name) if library in one.libraries), None)


def _as_lists(value: Any) -> Any:
    return list(map(_as_lists, value)) if isinstance(value, list | tuple) else value


def plain_fields(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides that matter in an evaluation, as JSON gives them back.

    Raises:
        UserError: if an override is not a plain value.
    """
    try:
        return {
            field: json.loads(json.dumps(value))
            for field, value in overrides.items()
            if field not in _OF_TRAINING
        }
    except TypeError as error:
        raise UserError(
            f'the overrides of "{name}" must be plain values to be written to a file: {error}'
        ) from error


def _check_shapes(
    name: str, variables: dict[str, Any], fields: dict[str, Any], size: int, channels: int
) -> None:
    """Raises `UserError` unless the variables are those of the network with the given fields."""
    flat = flax.traverse_util.flatten_dict(variables)
    bias = flat.get(("params", "classifier", "bias"))
    if bias is None:
        raise UserError(f'these are not variables of "{name}": they have no classifier')
    has_auxiliary = any("auxiliary_classifier" in path for path in flat)
    known = {field.name for field in dataclasses.fields(model_info(name).module)}
    more = {"auxiliary": False} if "auxiliary" in known and not has_auxiliary else {}
    fields = {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
    model = create_model(name, len(bias), **fields, **more)
    images = jnp.zeros((1, size, size, channels))
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    expected = flax.traverse_util.flatten_dict(expected)
    wrong = [
        "/".join(path)
        for path in {**expected, **flat}
        if path not in flat or path not in expected or flat[path].shape != expected[path].shape
    ]
    if wrong:
        raise UserError(
            f'these are not variables of "{name}" for {size} x {size} pixels and {channels} '
            f"channels: {len(wrong)} are missing, left over or of another shape "
            f"({', '.join(wrong[:3])}); give overrides and preparation as the network has them"
        )


def describe(
    name: str,
    num_classes: int,
    preparation: Preparation,
    class_names: Sequence[str] | None = None,
    fields: Mapping[str, Any] | None = None,
    layout: str | None = None,
    loss: str = "softmax",
    multi_label: bool = False,
) -> dict[str, Any]:
    """Returns what is stated with a network, as plain values in the form of timm's `config.json`.

    Args:
        name, preparation, class_names, layout, loss, multi_label: see `to_safetensors`.
        num_classes: number of classes.
        fields: plain values of fields in which the network differs from the registered one.
    """
    stated: dict[str, Any] = {"library": layout or OWN_LIBRARY, "num_classes": num_classes}
    architecture = architecture_of(name, layout) if layout else name
    if architecture:
        stated["architecture"] = architecture
    if class_names is not None:
        stated["label_names"] = list(class_names)
    if fields and not layout:
        stated["model_args"] = dict(fields)
    if loss != "softmax":
        stated |= {"loss": loss, "multi_label": multi_label}
    stated["pretrained_cfg"] = {
        "input_size": [len(preparation.mean), preparation.size, preparation.size],
        "crop_pct": preparation.crop_pct,
        "interpolation": preparation.interpolation,
        "mean": list(preparation.mean),
        "std": list(preparation.std),
    }
    return stated
