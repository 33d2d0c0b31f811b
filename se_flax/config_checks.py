"""Checks of the fields of a configuration that exclude or need one another."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from se_flax.data.repeats import num_shards
from se_flax.data.stages import last_values
from se_flax.detection.faster_rcnn import FROZEN
from se_flax.errors import UserError

# Fields of a network that are not set as overrides, and what decides them.
_NOT_OVERRIDES = {
    "dtype": "config.dtype",
    "num_classes": "the data set",
    "sync_axis": "config.sync_batch_norm",
    "remat": "config.remat",
}

# Fields that do nothing for a detector, with the values that leave them unused.
_NOT_OF_DETECTORS = {
    "freeze_backbone": False,
    "sync_batch_norm": False,
    "dataset.image_dir": "",
    "dataset.labels": "",
    "dataset.multi_label": False,
    "dataset.exif_orientation": False,
    "dataset.skip_bad": False,
    "dataset.image_size": 0,
    "dataset.train_size": 0,
    "dataset.crop_pct": 0.0,
    "dataset.interpolation": "",
    "augment.crop_padding": 0,
    "augment.random_resized_crop": False,
    "augment.policy": "",
    "augment.cutout": 0,
    "augment.random_erasing": 0.0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "augment.repeats": 1,
    "loss": "softmax",
    "class_weights": "",
    "label_smoothing": 0.0,
    "target_threshold": 0.0,
    "progressive.stages": 1,
}
# Fields that do nothing in a run of one stage, with their defaults.
_OF_FIRST_STAGE = {
    "progressive.train_size": 128,
    "progressive.magnitude": 5.0,
    "progressive.mixup": 0.0,
    "progressive.dropout": 0.1,
}
_ONLY_OF_DETECTORS = {"dataset.coco": "", "dataset.short_side": 800, "dataset.long_side": 1333}


def check_detector(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    """Raises `UserError` if a detector cannot be trained as a config says.

    Args:
        config: of the run.
        fields: its values by dotted name.
    """
    _check_unused(config.model.name, fields, _NOT_OF_DETECTORS)
    if config.dataset.short_side > config.dataset.long_side:
        raise UserError(
            f"config.dataset.short_side={config.dataset.short_side} must be at most "
            f"config.dataset.long_side={config.dataset.long_side}"
        )
    frozen = config.model.overrides.get("frozen", FROZEN)
    if frozen and not config.init_from:
        raise UserError(
            f"{', '.join(frozen)} of the trunk would keep random weights, because they are not "
            "trained; give weights with --config.init_from=FILE, or train all of it with "
            '--config.model.overrides.frozen="()"'
        )


def check_classifier(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    """Raises `UserError` if a field is set that only detectors use; see `check_detector`."""
    _check_unused(config.model.name, fields, _ONLY_OF_DETECTORS)


def check_progressive(config: ConfigDict, fields: Mapping[str, Any], dropout: float) -> None:
    """Raises `UserError` if the values of the first stage do not grow to those of the last one.

    For the size of the training images see `stages.check_stages_of`.

    Args:
        config: of the run.
        fields: its values by dotted name.
        dropout: dropout rate of the network.
    """
    if config.progressive.stages == 1:
        return _check_unused("a run with config.progressive.stages=1", fields, _OF_FIRST_STAGE)
    if not config.augment.policy.startswith("randaugment"):
        magnitude = {"progressive.magnitude": _OF_FIRST_STAGE["progressive.magnitude"]}
        _check_unused("a run without RandAugment", fields, magnitude)
    for name, (field, last) in last_values(config, dropout).items():
        first = config.progressive[name]
        if first > last:
            raise UserError(
                f"config.progressive.{name}={first:g} is larger than the value of the last stage, "
                f"{last:g}; use a smaller one, or set config.{field}"
            )


def _check_unused(run: str, fields: Mapping[str, Any], unused: Mapping[str, Any]) -> None:
    for name, unset in unused.items():
        if fields[name] != unset:
            raise UserError(
                f"config.{name}={fields[name]!r} has no effect on {run}; set it to {unset!r}"
            )


def check_combinations(config: ConfigDict) -> None:
    """Raises `UserError` for fields, each of an allowed value, that cannot be used together."""
    if config.seed + config.num_seeds > 2**32:
        raise UserError(
            f"config.seed ({config.seed}) leaves no room for config.num_seeds "
            f"({config.num_seeds}): the last seed must be below 4294967296"
        )
    if config.augment.crop_padding and config.augment.random_resized_crop:
        raise UserError(
            f"config.augment.crop_padding={config.augment.crop_padding} and "
            "config.augment.random_resized_crop=True are two ways to crop; set crop_padding to 0, "
            "or random_resized_crop to False"
        )
    if config.augment.magnitude_std and config.augment.policy != "randaugment_timm":
        raise UserError(
            f"config.augment.magnitude_std={config.augment.magnitude_std:g} has no effect on "
            f'config.augment.policy="{config.augment.policy}"; set it to 0, or the policy to '
            '"randaugment_timm"'
        )
    if config.augment.magnitude > 10 and config.augment.policy == "randaugment_timm":
        raise UserError(
            f"config.augment.magnitude={config.augment.magnitude:g} is above 10, the largest level "
            'of config.augment.policy="randaugment_timm"; use at most 10'
        )
    mean, std = config.dataset.mean, config.dataset.std
    if len(mean) != len(std):
        raise UserError(
            f"config.dataset.mean={tuple(mean)} and config.dataset.std={tuple(std)} must have as "
            "many values; set both, or neither"
        )
    _check_effects(config.augment)
    if config.augment.repeats > 1:
        num_shards(config.batch_size, config.augment.repeats)
    _check_labels(config)
    if config.target_threshold and (config.loss != "bce" or config.label_smoothing):
        raise UserError(
            f"config.target_threshold={config.target_threshold:g} makes every target 0 or 1, which "
            'needs config.loss="bce" and config.label_smoothing=0.0; set these, or '
            "target_threshold to 0"
        )
    for name, value in config.model.overrides.items():
        if name in _NOT_OVERRIDES:
            raise UserError(
                f"config.model.overrides.{name} cannot be set; {_NOT_OVERRIDES[name]} decides it"
            )
        if not isinstance(value, bool | int | float | str | tuple | list):
            raise UserError(f"config.model.overrides.{name} must be a plain value, not {value!r}")


def _check_effects(augment: ConfigDict) -> None:
    """Raises `UserError` for options of an augmentation that is not used."""
    for option, unset, augmentations in (
        ("erasing_form", "zhong", ("random_erasing",)),
        ("mix_by", "pair", ("mixup", "cutmix")),
    ):
        if augment[option] != unset and not any(augment[name] for name in augmentations):
            raise UserError(
                f'config.augment.{option}="{augment[option]}" has no effect without '
                f"{' or '.join(augmentations)}; set {augmentations[0]} above 0, or {option} to "
                f'"{unset}"'
            )


def _check_labels(config: ConfigDict) -> None:
    options = config.dataset
    if options.labels and not options.image_dir:
        raise UserError(
            f"config.dataset.labels={options.labels} names the classes of images in a folder; give "
            "the folder with config.dataset.image_dir=DIR, or leave labels empty"
        )
    if options.exif_orientation and not options.image_dir:
        raise UserError(
            "config.dataset.exif_orientation=True is for images in a folder; give it with "
            "config.dataset.image_dir=DIR, or leave exif_orientation False"
        )
    if options.multi_label and config.loss != "bce":
        raise UserError(
            "config.dataset.multi_label=True gives an image several classes, which "
            f'config.loss="{config.loss}" cannot learn; use config.loss="bce"'
        )


def check_names_labels(config: ConfigDict) -> None:
    """Raises `UserError` if a data set that is given by its name cannot have several classes."""
    if config.dataset.multi_label and not config.dataset.labels:
        raise UserError(
            "config.dataset.multi_label=True needs a CSV file with the classes of each image; give "
            "it with config.dataset.labels=FILE"
        )
