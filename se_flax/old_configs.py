"""The configs that earlier versions wrote, converted to the present fields."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from se_flax.config import FIELDS, STREAMED_ONLY, leaves, nested
from se_flax.data.sources import check_dataset_name, known_datasets
from se_flax.errors import UserError
from se_flax.models import list_models, model_info
from se_flax.models.registry import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD

# Fields of version 0.1: their new names, and the new value as a function of (value, num_epochs).
_RENAMED: dict[str, tuple[str, Callable[[Any, int], Any]]] = {
    "freeze_body": ("freeze_backbone", lambda value, _: value),
    "dataset.eval_crop": ("dataset.crop_pct", lambda value, _: value),
    "augment.mirror": ("augment.horizontal_flip", lambda value, _: value),
    "augment.randaugment_layers": ("augment.num_ops", lambda value, _: value),
    "augment.randaugment_magnitude": ("augment.magnitude", lambda value, _: value),
    "optimizer.batch_size_reference": ("optimizer.base_batch_size", lambda value, _: value),
    "optimizer.rates": ("optimizer.lr_multipliers", lambda value, _: value),
    "schedule.warmup": ("schedule.warmup_epochs", lambda value, epochs: value * epochs),
    "schedule.warmup_start": ("schedule.warmup_factor", lambda value, _: value),
    "schedule.drop_at": ("schedule.milestones", lambda value, n: [x * n for x in value]),
    "schedule.drop_factor": ("schedule.gamma", lambda value, _: value),
}

_SQUEEZES = {"average": "avg", "maximum": "max"}


def modernized(values: Mapping[str, Any]) -> ConfigDict:
    """Returns a configuration that an earlier version wrote, converted to the present fields.

    Missing fields get their defaults, which are what versions without those fields did.
    """
    given = dict(leaves(values))
    if "augment.mirror" in given:  # 0.1 ignored one of the two ways to crop
        if given.get("dataset.image_dir") or given["dataset.name"] not in known_datasets():
            if given["augment.random_resized_crop"]:
                given["augment.crop_padding"] = 0
        else:
            given.update({name: value for name, value in STREAMED_ONLY.items() if name in given})
    for old, (new, convert) in _RENAMED.items():
        if old in given:
            given[new] = convert(given.pop(old), given["num_epochs"])
    overrides = dict(given.get("model.overrides", {}))
    if overrides.get("squeeze") in _SQUEEZES:
        overrides["squeeze"] = _SQUEEZES[overrides["squeeze"]]
    given["model.overrides"] = overrides
    defaults = {name: field.default for name, field in FIELDS.items()}
    return nested({**defaults, **given})


def with_statistics(config: ConfigDict) -> ConfigDict:
    """Returns the config of a run that did not store mean and std, with those that it used.

    Streamed images were normalised as for the network, for which CIFAR networks had the values of
    ImageNet.
    """
    if not streams_images(config):
        return config
    info = model_info(config.model.name)
    of_cifar = (info.mean, info.std) == (CIFAR10_MEAN, CIFAR10_STD)
    config.dataset.mean = IMAGENET_MEAN if of_cifar else info.mean
    config.dataset.std = IMAGENET_STD if of_cifar else info.std
    return config


def streams_images(config: ConfigDict) -> bool:
    """Whether a config is of a run on streamed images, and of a registered network."""
    if config.model.name not in list_models():
        return False
    if config.dataset.image_dir or config.dataset.name in known_datasets():
        return bool(config.dataset.image_dir)
    try:
        check_dataset_name(config.dataset.name)
        return True
    except UserError:  # a data set passed to `train`
        return False
