"""What is stated with published weights: their architecture, and how images are prepared.

timm states both in the `config.json` of each of its hub repositories, as `se_flax.publish` does.
Other files may have an architecture in the metadata of their safetensors, or in the entry `arch` of
a PyTorch checkpoint, or a `config.json` next to them. A safetensors file of this package has all of
it in its metadata.
"""

import contextlib
import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from se_flax.errors import Note, UserError
from se_flax.models import Preparation, model_info
from se_flax.pretrained.architectures import of_hub_id
from se_flax.pretrained.catalogue import find_weights
from se_flax.pretrained.hub import (
    HUB_FILES,
    SUFFIXES,
    TORCH_SUFFIXES,
    download,
    import_package,
    is_hub_id,
)
from se_flax.pretrained.torch_file import architecture_in

if TYPE_CHECKING:
    from se_flax.runtime.paths import Path

# The key of what is stated in the metadata of files that this package writes, and the library of
# weights in its own layout.
OWN_LIBRARY = "se_flax"
_INTERPOLATIONS = ("bilinear", "bicubic")
# Arguments of timm's networks that change nothing in an evaluation.
_HARMLESS = {"num_classes", "in_chans", "pretrained", "pretrained_cfg", "checkpoint_path"}
_HARMLESS |= {"drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"}


def preparation(name: str, source: str | pathlib.Path | None = None) -> Preparation:
    """Returns how images must be prepared for published weights.

        prepared = preparation("efficientnet_b0", "timm/tf_efficientnet_b0.ap_in1k")
        prepared.mean  # (0.5, 0.5, 0.5)

    It comes from the catalogue, or else from the `config.json` of the hub repository, or of the
    folder of a file (see `load_pretrained`). Where none of them states it, it is the published
    network's, `model_info(name).preparation`.

    Args:
        name: a name in `list_models()`.
        source: a `source` for `load_pretrained`; by default the first in the catalogue.

    Raises:
        UserError: if there is no such network, or the hub cannot be read.
    """
    return stated_preparation(name, source) or model_info(name).preparation


def stated_preparation(name: str, source: str | pathlib.Path | None) -> Preparation | None:
    """Returns what the catalogue or a `config.json` states; None if neither states anything.

    For arguments and errors see `preparation`.
    """
    known = find_weights(name, source)
    if known is not None:
        return known.preparation
    config = {} if source is None else description(source)
    stated = {**config, **_mapping(config.get("pretrained_cfg"))}
    if not {"mean", "std"} <= set(stated):
        return None
    own = model_info(name).preparation
    size = stated.get("test_input_size") or stated.get("input_size") or [3, own.size, own.size]
    interpolation = stated.get("interpolation") or own.interpolation
    if interpolation not in _INTERPOLATIONS:
        _note(
            f'{source} states that images are resized by "{interpolation}", which is not '
            'available here; "bicubic" is used instead'
        )
        interpolation = "bicubic"
    if stated.get("crop_mode", "center") != "center":
        _note(
            f'{source} states that images are cropped in the mode "{stated["crop_mode"]}", which '
            "is not available here; their centre is cropped instead"
        )
    try:
        return _checked(
            Preparation(
                int(size[-1]),
                float(stated.get("test_crop_pct") or stated.get("crop_pct") or own.crop_pct),
                interpolation,
                *(_numbers(stated[field], size[0]) for field in ("mean", "std")),
            )
        )
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"config.json of {source} does not state how images are prepared: {error}; correct it"
        ) from error


def class_names(source: str | pathlib.Path) -> tuple[str, ...] | None:
    """Returns the name of each class, if they are stated with weights, in the order of the logits.

    Files of `se_flax.export` and repositories of `se_flax.publish` state them, and some of timm's.

    Args:
        source: a `source` for `load_pretrained`.

    Raises:
        UserError: if the hub cannot be read.
    """
    names = description(source).get("label_names")
    return tuple(map(str, names)) if isinstance(names, list) else None


def meaning_of_logits(source: str | pathlib.Path) -> dict[str, Any]:
    """Returns `loss` and `multi_label` of `se_flax.loaded.LoadedRun`, {} if they are not stated.

    Only weights that were trained with "bce" by this package state them.

    Args:
        source: a `source` for `load_pretrained`.

    Raises:
        UserError: if the hub cannot be read.
    """
    stated = description(source)
    names = ("loss", "multi_label")
    return {name: stated[name] for name in names} if stated.keys() >= set(names) else {}


def own_description(source: str | pathlib.Path) -> dict[str, Any] | None:
    """Returns what is stated with weights that this package wrote in its own layout.

    They are in a file, or in a repository of the hub. None for others, and if the hub cannot be
    read, which reading the weights will report.
    """
    from se_flax.runtime.paths import to_path

    if str(source).startswith("http"):
        return None
    path = to_path(source)
    stated: dict[str, Any] = {}
    if path.is_file():
        if path.suffix == ".safetensors":
            stated = description(path)
    elif is_hub_id(source) and of_hub_id(source) is None:
        with contextlib.suppress(UserError):
            stated = description(source)
    is_own = stated.get("library") == OWN_LIBRARY and {"architecture", "pretrained_cfg"} <= set(
        stated
    )
    return stated if is_own else None


def stated_channels(source: str | pathlib.Path) -> int:
    """Returns the number of channels of the images that this package states with weights.

    It is 3 for weights of others.
    """
    if of_hub_id(source) is None:
        with contextlib.suppress(UserError):
            stated = description(source)
            if {"library", "pretrained_cfg"} <= set(stated):
                return int(stated["pretrained_cfg"]["input_size"][0])
    return 3


def _numbers(values: Any, channels: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != channels:
        raise ValueError(f"{len(numbers)} values {numbers} are not one for each of {channels}")
    return numbers


def _checked(prepared: Preparation) -> Preparation:
    if prepared.size < 1 or not 0 < prepared.crop_pct <= 1:
        raise ValueError(f"size {prepared.size} or crop {prepared.crop_pct:g} is out of range")
    for field, least in (("mean", 0.0), ("std", 0.001)):
        values = getattr(prepared, field)
        if not all(least <= value <= 1 for value in values):
            raise ValueError(f"{field} {values} is not between {least:g} and 1")
    return prepared


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _note(text: str) -> None:
    warnings.warn(text, Note, stacklevel=3)


def stated_architecture(source: str | pathlib.Path) -> str | None:
    """Returns the name of the architecture that is stated with weights, or None.

    A name that timm's arguments modify is given with them, for example
    "resnet50(output_stride=8)".

    Raises:
        UserError: if the hub cannot be read.
    """
    config = description(source)
    name = config.get("architecture")
    if not isinstance(name, str):
        return None
    pool = config.get("global_pool") or "avg"
    arguments = {**_mapping(config.get("model_args")), "global_pool": pool}
    changed = [
        f"{key}={value}"
        for key, value in arguments.items()
        if key not in _HARMLESS and (key, value) != ("global_pool", "avg")
    ]
    return f"{name}({', '.join(changed)})" if changed else name


def description(source: str | pathlib.Path) -> dict[str, Any]:
    """Returns what is stated with weights, in the form of timm's `config.json`; {} if nothing is.

    Raises:
        UserError: if the hub cannot be read, or a `config.json` is damaged.
    """
    from se_flax.runtime.paths import local_copy, to_path

    path = to_path(source)
    if path.is_file():
        config = _config_beside(path)
        metadata = _metadata(local_copy(path))
        if metadata.get("library") == OWN_LIBRARY:
            return metadata
        return {**metadata, **(_read_json(config) if config else {})}
    if not is_hub_id(source):
        return {}
    config = download(str(source), "config.json", optional=True)
    return _read_json(config) if config else {}


def _config_beside(path: "Path") -> "Path | None":
    """Returns the config.json of a file's folder, if it can only mean this file."""
    config = path.with_name("config.json")
    weights = [file for file in path.parent.iterdir() if file.suffix in SUFFIXES]
    return config if config.is_file() and (path.name in HUB_FILES or len(weights) == 1) else None


def _read_json(path: "Path") -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove or correct it") from error
    return _mapping(values)


def _metadata(path: pathlib.Path) -> dict[str, Any]:
    """Returns what a file itself states."""
    if path.suffix in TORCH_SUFFIXES:
        name = architecture_in(path)
        return {"architecture": name} if name else {}
    if path.suffix != ".safetensors":
        return {}
    safetensors = import_package("safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError):  # reading the tensors will report it
        return {}
    if OWN_LIBRARY in metadata:
        with contextlib.suppress(ValueError):
            return _mapping(json.loads(metadata[OWN_LIBRARY]))
    return {key: metadata[key] for key in ("architecture",) if key in metadata}
