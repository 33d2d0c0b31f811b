"""The fields of a run's configuration, what they mean, and the check of a given one."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from se_flax.data.augment import POLICIES
from se_flax.data.sources import check_dataset_name
from se_flax.errors import UserError, nearest
from se_flax.models import create_model
from se_flax.pretrained.load import check_source

Check = Callable[[Any], bool]


def default_config() -> ConfigDict:
    """Returns the configuration that every config file starts from.

    Its fields are locked: setting one that does not exist is an error.
    """
    config = ConfigDict()
    config.seed = 0  # of initialisation, data order and augmentation
    # So many networks are trained as one run, of seeds seed, seed + 1, ...: "vmap" computes them
    # at once, "in_turn" step by step one after the other; "auto" is vmap on GPU and TPU, for
    # images held in memory.
    config.num_seeds = 1
    config.seed_mode = "auto"

    config.model = ConfigDict()
    config.model.name = "se_resnet20_cifar"
    config.model.overrides = ConfigDict()  # keyword arguments for create_model
    # Published weights to begin with: a hub id or a file, see se_flax.load_pretrained. The
    # classifier is new where the number of classes is another one.
    config.init_from = ""
    config.freeze_body = False  # train the classifier alone, on what the body gives in evaluation
    config.dtype = "float32"  # of computation ("bfloat16"); parameters stay float32
    config.sync_batch_norm = False  # batch statistics over all devices, not each one's own

    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # held in memory, or any of TFDS with images and labels
    config.dataset.data_dir = ""  # empty: $TFDS_DATA_DIR or ~/tensorflow_datasets
    # In place of a name: a folder with train/<class>/*.jpg and val/<class>/*.jpg.
    config.dataset.image_dir = ""
    config.dataset.skip_bad = False  # leave out images of image_dir that cannot be read
    # Of images that are streamed, not held in memory:
    config.dataset.image_size = 0  # height and width the network sees; 0: what it was made for
    config.dataset.eval_crop = 0.0  # part of the short side that is evaluated; 0: as published
    config.dataset.interpolation = ""  # of evaluation, "bilinear" or "bicubic"; "": as published
    config.dataset.workers = 0  # processes that read images; 0: threads
    config.validation_fraction = 0.0  # of train, held out to choose the best checkpoint on

    config.augment = ConfigDict()
    config.augment.crop_padding = 4  # zeros around the image before a random crop; 0: none
    config.augment.mirror = True  # left to right, for data sets where that keeps the meaning
    config.augment.random_resized_crop = True  # of streamed images; crop_padding is for others
    config.augment.crop_area = (0.08, 1.0)  # share of an image that such a crop takes
    config.augment.policy = ""  # "autoaugment_imagenet", ..._cifar10, ..._svhn, "randaugment"
    config.augment.randaugment_layers = 2
    config.augment.randaugment_magnitude = 9.0  # 10 is each operation's full strength
    config.augment.cutout = 0  # side of a square taken out, in pixels; 0: none
    config.augment.random_erasing = 0.0  # probability
    config.augment.mixup = 0.0  # alpha; 0: none
    config.augment.cutmix = 0.0  # alpha; 0: none

    config.batch_size = 128  # over all devices
    config.num_epochs = 200

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or "rmsprop", "adadelta", "adam", "adamw"
    config.optimizer.learning_rate = 0.1
    config.optimizer.batch_size_reference = 0  # learning_rate is for this batch; 0: for any
    config.optimizer.momentum = 0.9  # of Adam beta_1
    config.optimizer.nesterov = True  # "sgd"
    # Of the mean squared gradient, not "sgd"; 0: the usual, see se_flax.optim.make_optimizer.
    config.optimizer.decay = 0.0
    config.optimizer.epsilon = 0.0  # beside the mean squared gradient; 0: the usual
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False  # decay batch norm and biases too
    config.optimizer.clip_norm = 0.0  # largest global norm of a gradient; 0: no limit
    # Layer-wise learning rates: (pattern, factor) pairs, such as (("classifier/*", 1.0),
    # ("*", 0.1)); the first whose pattern a parameter's path matches counts.
    config.optimizer.rates = ()

    config.schedule = ConfigDict()
    config.schedule.name = "step"  # or "cosine", "constant", "exponential"
    config.schedule.warmup = 0.005  # fraction of the run; linear, from warmup_start
    config.schedule.warmup_start = 0.1  # fraction of learning_rate
    config.schedule.drop_at = (0.5, 0.75)  # "step": fractions of num_epochs
    config.schedule.drop_factor = 0.1
    config.schedule.decay_rate = 0.97  # "exponential": factor every so many epochs
    config.schedule.decay_epochs = 2.4
    config.schedule.staircase = True  # all at once, not evenly from step to step

    config.label_smoothing = 0.0
    config.auxiliary_weight = 0.4  # of the loss of a network's auxiliary logits, if it has any
    config.ema_decay = 0.0  # of parameters and batch statistics, a step; 0: none kept

    # When loss or gradient is not finite: "stop" the run, or "skip" the update and count it.
    config.on_nonfinite = "stop"

    config.steps_per_dispatch = 0  # 0: one on a CPU, chosen by the program elsewhere
    config.log_every_steps = 100  # a row in metrics.jsonl; besides that one an epoch
    config.eval_every_epochs = 1
    config.eval_batch_size = 500
    # After each evaluation, and between them at the first row after so many minutes.
    config.checkpoint_every_minutes = 5.0
    config.lock()
    config.model.overrides.unlock()
    return config


def _is(kind: type | tuple[type, ...]) -> Check:
    return lambda value: isinstance(value, kind) and not isinstance(value, bool)


def _number(low: float, high: float = float("inf")) -> Check:
    return lambda value: _is((int, float))(value) and math.isfinite(value) and low <= value <= high


def _whole(low: int, high: int = 2**31 - 1) -> tuple[Check, str]:
    return (
        lambda value: _is(int)(value) and low <= value <= high,
        f"a whole number from {low} to {high}",
    )


def _positive(high: float = float("inf")) -> Check:
    return lambda value: _number(0, high)(value) and value > 0


def _one_of(names: tuple[str, ...]) -> tuple[Check, str]:
    quoted = [f'"{name}"' for name in names]
    return lambda value: value in names, f"{', '.join(quoted[:-1])} or {quoted[-1]}"


# What each field may be: the check, and the words for it.
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_TEXT = (_is(str), "a text")
_FRACTION = (lambda value: _number(0)(value) and value < 1, "a number from 0 to below 1")
_RULES: dict[str, tuple[Check, str]] = {
    "seed": _whole(0, 2**32 - 1),
    "num_seeds": _whole(1, 2**16),
    "seed_mode": _one_of(("auto", "vmap", "in_turn")),
    "model.name": _TEXT,
    "init_from": _TEXT,
    "freeze_body": _FLAG,
    "dtype": (lambda value: value in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
    "sync_batch_norm": _FLAG,
    "dataset.name": _TEXT,
    "dataset.data_dir": _TEXT,
    "dataset.image_dir": _TEXT,
    "dataset.skip_bad": _FLAG,
    "dataset.image_size": _whole(0, 4096),
    "dataset.eval_crop": (
        lambda value: value == 0 or _number(0.1, 1)(value),
        "0, or a number from 0.1 to 1",
    ),
    "dataset.interpolation": _one_of(("", "bilinear", "bicubic")),
    "dataset.workers": _whole(0, 1024),
    "validation_fraction": _FRACTION,
    "augment.crop_padding": _whole(0, 4096),
    "augment.mirror": _FLAG,
    "augment.random_resized_crop": _FLAG,
    "augment.crop_area": (
        lambda value: (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(_number(0, 1)(item) for item in value)
            and 0 < value[0] <= value[1]
        ),
        "the least and the largest part of the image, above 0 and at most 1",
    ),
    "augment.policy": _one_of(("", "randaugment", *POLICIES)),
    "augment.randaugment_layers": _whole(1, 16),
    "augment.randaugment_magnitude": (_number(0), "a number of at least 0"),
    "augment.cutout": _whole(0, 4096),
    "augment.random_erasing": (_number(0, 1), "a number from 0 to 1"),
    "augment.mixup": (_number(0), "a number of at least 0"),
    "augment.cutmix": (_number(0), "a number of at least 0"),
    "batch_size": _whole(1, 2**20),
    "num_epochs": _whole(1),
    "optimizer.name": _one_of(("sgd", "rmsprop", "adadelta", "adam", "adamw")),
    "optimizer.learning_rate": (_number(0), "a number of at least 0"),
    "optimizer.batch_size_reference": _whole(0),
    "optimizer.momentum": (_number(0, 1), "a number from 0 to 1"),
    "optimizer.nesterov": _FLAG,
    "optimizer.decay": _FRACTION,
    "optimizer.epsilon": (_number(0), "a number of at least 0"),
    "optimizer.weight_decay": (_number(0), "a number of at least 0"),
    "optimizer.decay_norm_and_bias": _FLAG,
    "optimizer.clip_norm": (_number(0), "a number of at least 0"),
    "optimizer.rates": (
        lambda value: (
            isinstance(value, tuple | list)
            and all(
                isinstance(pair, tuple | list)
                and len(pair) == 2
                and isinstance(pair[0], str)
                and _number(0)(pair[1])
                for pair in value
            )
        ),
        "pairs of a pattern and a factor of at least 0",
    ),
    "schedule.name": _one_of(("step", "cosine", "constant", "exponential")),
    "schedule.warmup": _FRACTION,
    "schedule.warmup_start": (_number(0, 1), "a number from 0 to 1"),
    "schedule.drop_at": (
        lambda value: (
            isinstance(value, tuple | list)
            and all(_number(0, 1)(item) for item in value)
            and list(value) == sorted(set(value))
        ),
        "increasing fractions of the run, from 0 to 1",
    ),
    "schedule.drop_factor": (_number(0, 1), "a number from 0 to 1"),
    "schedule.decay_rate": (_positive(1), "a number above 0 and at most 1"),
    "schedule.decay_epochs": (_positive(), "a number above 0"),
    "schedule.staircase": _FLAG,
    "label_smoothing": _FRACTION,
    "auxiliary_weight": (_number(0), "a number of at least 0"),
    "ema_decay": _FRACTION,
    "on_nonfinite": _one_of(("stop", "skip")),
    "steps_per_dispatch": _whole(0),
    "log_every_steps": _whole(1),
    "eval_every_epochs": _whole(1),
    "eval_batch_size": _whole(1, 2**20),
    "checkpoint_every_minutes": (_number(0), "a number of at least 0"),
}


def _leaves(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and f"{prefix}{key}" != "model.overrides":
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_config(config: ConfigDict, names_dataset: bool = True) -> None:
    """Raises `UserError` for the first field of a configuration that cannot be used.

    Everything that can be told without reading data or compiling is checked here: names and
    types of fields, their ranges, the model with its overrides, and the data set's name
    (unless it is not `config` that names the data).
    """
    given = dict(_leaves(config))
    for field in given:
        if field not in _RULES and field != "model.overrides":
            raise UserError(f'there is no config field "{field}"{nearest(field, _RULES)}')
    for field, (is_valid, expected) in _RULES.items():
        if field not in given:
            raise UserError(
                f'the config lacks the field "{field}"; start from se_flax.config.default_config()'
            )
        if not is_valid(given[field]):
            raise UserError(f"config.{field} must be {expected}, not {given[field]!r}")
    if config.seed + config.num_seeds > 2**32:
        raise UserError(
            f"config.seed ({config.seed}) leaves no room for config.num_seeds "
            f"({config.num_seeds}): the last seed must be below 4294967296"
        )
    if names_dataset and not config.dataset.image_dir:
        check_dataset_name(config.dataset.name)
    for field, value in given["model.overrides"].items():
        if not isinstance(value, bool | int | float | str | tuple | list):
            raise UserError(f"config.model.overrides.{field} must be a plain value, not {value!r}")
    build_model(config, num_classes=2)
    if config.init_from:
        check_source(config.model.name, config.init_from)


def fill_in(config: ConfigDict) -> None:
    """Gives a config that an earlier version wrote the fields it lacks.

    Their defaults are what versions without them did.
    """

    def fill(given: ConfigDict, defaults: ConfigDict) -> None:
        for field, value in defaults.items():
            if field not in given:
                given[field] = value
            elif isinstance(value, ConfigDict) and isinstance(given[field], ConfigDict):
                fill(given[field], value)

    fill(config, default_config())


def build_model(config: ConfigDict, num_classes: int, sync_axis: str | None = None) -> nn.Module:
    """Returns the network that a config describes.

    Args:
        config: the run's configuration.
        num_classes: size of the classifier's output.
        sync_axis: mapped axis over which batch statistics are shared, if any.
    """
    overrides = config.model.overrides.to_dict()
    # A config that went through a file has lists where it had tuples.
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    return create_model(
        config.model.name,
        num_classes,
        dtype=jnp.dtype(config.dtype),
        sync_axis=sync_axis,
        **overrides,
    )


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Raises `UserError` unless the batch can be shared evenly among the devices."""
    if config.batch_size % num_devices:
        lower = config.batch_size - config.batch_size % num_devices
        raise UserError(
            f"config.batch_size ({config.batch_size}) cannot be shared evenly by {num_devices} "
            f"devices; use a multiple of {num_devices}, such as {lower or num_devices}"
        )
    mixes = config.augment.mixup or config.augment.cutmix
    if mixes and config.batch_size // num_devices % 2:
        raise UserError(
            f"config.batch_size ({config.batch_size}) gives each of {num_devices} devices an odd "
            "number of images, but mixup and cutmix take pairs; use a multiple of "
            f"{2 * num_devices}"
        )
