"""A run's configuration: one table with every field, its default, its check and its meaning."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict, FieldReference

from se_flax.config_checks import check_combinations, check_names_labels
from se_flax.data.augment import POLICIES
from se_flax.data.sources import check_dataset_name, known_datasets
from se_flax.errors import UserError, nearest
from se_flax.models import create_model
from se_flax.pretrained.load import check_source


@dataclasses.dataclass(frozen=True)
class Kind:
    """The values that a field may have.

    Attributes:
        allows: whether a value is allowed.
        expected: describes these values in an error message, after "must be".
    """

    allows: Callable[[Any], bool]
    expected: str


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the configuration.

    Attributes:
        default: its value in a new configuration.
        kind: the values it may have.
        meaning: what it does, in a phrase.
    """

    default: Any
    kind: Kind
    meaning: str


def _is_number(value: Any, low: float = 0, high: float = math.inf) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and low <= value <= high


def _number(low: float = 0, high: float = math.inf) -> Kind:
    if high == math.inf:
        return Kind(lambda value: _is_number(value, low), f"a number of at least {low:g}")
    return Kind(lambda value: _is_number(value, low, high), f"a number from {low:g} to {high:g}")


def _positive(high: float = math.inf) -> Kind:
    limit = "" if high == math.inf else f" and at most {high:g}"
    return Kind(lambda x: _is_number(x, 0, high) and x > 0, f"a number above 0{limit}")


def _whole(low: int, high: int = 2**31 - 1) -> Kind:
    return Kind(
        lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high,
        f"a whole number from {low} to {high}",
    )


def _one_of(*names: str) -> Kind:
    quoted = [f'"{name}"' for name in names]
    return Kind(lambda value: value in names, f"{', '.join(quoted[:-1])} or {quoted[-1]}")


def _sequence(is_item: Callable[[Any], bool], expected: str) -> Kind:
    return Kind(lambda x: isinstance(x, tuple | list) and all(map(is_item, x)), expected)


def _is_area(value: Any) -> bool:
    return _is_number(value, 0, 1) and value > 0


def _is_lr_multiplier(value: Any) -> bool:
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return is_pair and isinstance(value[0], str) and _is_number(value[1])


def _rising(kind: Kind) -> Kind:
    return Kind(lambda x: kind.allows(x) and list(x) == sorted(set(x)), kind.expected)


_FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
_TEXT = Kind(lambda value: isinstance(value, str), "a string")
_FRACTION = Kind(lambda value: _is_number(value) and value < 1, "a number from 0 to below 1")
_CROP_PCT = Kind(
    lambda value: value == 0 or _is_number(value, 0.1, 1), "0, or a number from 0.1 to 1"
)
_CROP_AREA = Kind(
    lambda x: _sequence(_is_area, "").allows(x) and len(x) == 2 and x[0] <= x[1],
    "the smallest and the largest share of the image, above 0 and at most 1",
)
_MEAN = _sequence(
    lambda value: _is_number(value, 0, 1), "numbers from 0 to 1, one per channel, or empty"
)
_STD = _sequence(_is_area, "numbers above 0 and at most 1, one per channel, or empty")
_MILESTONES = _rising(_sequence(_is_number, "increasing numbers of epochs, of at least 0"))
_LR_MULTIPLIERS = _sequence(_is_lr_multiplier, "pairs of a pattern and a factor of at least 0")
_OVERRIDES = Kind(lambda value: isinstance(value, Mapping | ConfigDict), "a dictionary")
_CHARACTER = Kind(lambda value: isinstance(value, str) and len(value) == 1, "one character")
_CLASS_WEIGHTS = Kind(
    lambda x: x in ("", "balanced") or _sequence(lambda w: _is_number(w) and w > 0, "").allows(x),
    '"balanced", or numbers above 0, one per class, or empty',
)

FIELDS: dict[str, Field] = {
    "seed": Field(0, _whole(0, 2**32 - 1), "seed of every random stream of the run (se_flax.rng)"),
    "num_seeds": Field(
        1, _whole(1, 2**16), "networks to train as one run, with seeds seed, seed + 1, ..."
    ),
    "seed_mode": Field(
        "auto",
        _one_of("auto", "vmap", "in_turn"),
        'how to train several seeds: "vmap" computes them at once, "in_turn" one after the other '
        'at each step; "auto" is "vmap" on a TPU for images held in memory, else "in_turn"',
    ),
    "model.name": Field("se_resnet20_cifar", _TEXT, "one of se_flax.list_models()"),
    "model.overrides": Field({}, _OVERRIDES, "keyword arguments for se_flax.create_model"),
    "init_from": Field(
        "",
        _TEXT,
        "published weights to start from: a hub id or a file (see se_flax.load_pretrained); the "
        "classifier is new if the number of classes differs",
    ),
    "freeze_backbone": Field(
        False, _FLAG, "train the classifier only; the backbone computes as in evaluation"
    ),
    "dtype": Field(
        "float32", _one_of("float32", "bfloat16"), "type to compute in; parameters stay float32"
    ),
    "sync_batch_norm": Field(
        False, _FLAG, "compute batch statistics over all devices, not on each device alone"
    ),
    "remat": Field(
        False, _FLAG, "compute maps again for the gradient: less memory, more time, same result"
    ),
    "dataset.name": Field(
        "cifar10",
        _TEXT,
        f"held in memory: {', '.join(known_datasets())}; streamed: any other TFDS data set with "
        "images and labels",
    ),
    "dataset.data_dir": Field(
        "", _TEXT, "folder of TFDS data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    ),
    "dataset.image_dir": Field(
        "",
        _TEXT,
        "folder of images, used instead of name: train/<class>/*.jpg and val/<class>/*.jpg",
    ),
    "dataset.labels": Field(
        "",
        _TEXT,
        "CSV file with the classes of the images in image_dir, in which it is if the path is "
        "relative (see se_flax.data.label_file); empty: an image's folder is its class",
    ),
    "dataset.multi_label": Field(
        False, _FLAG, 'an image can have several classes, or none; needs loss="bce"'
    ),
    "dataset.label_separator": Field(
        ";", _CHARACTER, "labels: character between the classes of an image"
    ),
    "dataset.exif_orientation": Field(
        False, _FLAG, "turn the images of image_dir upright, as their EXIF orientation says"
    ),
    "dataset.skip_bad": Field(False, _FLAG, "leave out images of image_dir that cannot be read"),
    "dataset.image_size": Field(
        0,
        _whole(0, 4096),
        "streamed images: height and width the network sees; 0: as init_from's weights state, or "
        "else as the network was published",
    ),
    "dataset.crop_pct": Field(
        0.0,
        _CROP_PCT,
        "streamed images: share of the short side that evaluation sees; 0: as for image_size",
    ),
    "dataset.interpolation": Field(
        "",
        _one_of("", "bilinear", "bicubic"),
        "streamed images: how evaluation resizes; empty: as for image_size",
    ),
    "dataset.mean": Field(
        (),
        _MEAN,
        "mean of each channel, on a scale of 0 to 1, that is subtracted; empty: as init_from's "
        "weights state, or else of the data set, if known, or the network; the run stores it",
    ),
    "dataset.std": Field((), _STD, "standard deviation of each channel, to divide by; see mean"),
    "dataset.workers": Field(
        0, _whole(0, 1024), "streamed images: processes that read them; 0: threads"
    ),
    "validation_fraction": Field(
        0.0, _FRACTION, "share of the training images to hold out for choosing the best checkpoint"
    ),
    "augment.crop_padding": Field(
        4,
        _whole(0, 4096),
        "pixels of mean colour added on each side before a random crop to the original size; "
        "0: no crop",
    ),
    "augment.random_resized_crop": Field(
        False, _FLAG, "streamed images: a crop of random area and shape, resized"
    ),
    "augment.crop_area": Field(
        (0.08, 1.0),
        _CROP_AREA,
        "random_resized_crop: smallest and largest share of the image that a crop covers",
    ),
    "augment.horizontal_flip": Field(
        True, _FLAG, "flip half of the images, in data sets where a flip keeps the class"
    ),
    "augment.policy": Field(
        "",
        _one_of("", "randaugment", *POLICIES),
        '"randaugment" or the name of an AutoAugment policy; empty: none',
    ),
    "augment.num_ops": Field(2, _whole(1, 16), "randaugment: number of operations on each image"),
    "augment.magnitude": Field(9.0, _number(), "randaugment: strength; 10 is full strength"),
    "augment.cutout": Field(0, _whole(0, 4096), "side of the square to blank, in pixels; 0: none"),
    "augment.random_erasing": Field(0.0, _number(0, 1), "probability of random erasing"),
    "augment.mixup": Field(0.0, _number(), "alpha of mixup; 0: none"),
    "augment.cutmix": Field(0.0, _number(), "alpha of cutmix; 0: none"),
    "batch_size": Field(128, _whole(1, 2**20), "images per step, over all devices"),
    "accumulate_steps": Field(
        1,
        _whole(1, 2**20),
        "parts in which each device computes its images of a step, one after another, to save "
        "memory; batch norm uses the statistics of each part",
    ),
    "num_epochs": Field(200, _whole(1), "length of the run, in epochs"),
    "optimizer.name": Field(
        "sgd", _one_of("sgd", "rmsprop", "adadelta", "adam", "adamw"), "update rule"
    ),
    "optimizer.learning_rate": Field(0.1, _number(), "learning rate at the peak of the schedule"),
    "optimizer.base_batch_size": Field(
        0,
        _whole(0),
        "batch size that learning_rate is for; the rate scales with batch_size; 0: no scaling",
    ),
    "optimizer.momentum": Field(
        0.9, _number(0, 1), "momentum; beta_1 of adam and adamw; no effect on adadelta"
    ),
    "optimizer.nesterov": Field(True, _FLAG, "sgd: Nesterov momentum"),
    "optimizer.decay": Field(
        0.0,
        _FRACTION,
        "decay of the mean squared gradient (not sgd); 0: the rule's usual value (se_flax.optim)",
    ),
    "optimizer.epsilon": Field(
        0.0, _number(), "added to the mean squared gradient or its root; 0: the rule's usual value"
    ),
    "optimizer.weight_decay": Field(
        1e-4,
        _number(),
        "this times the parameters is added to the gradient (an L2 penalty); adamw: to the update, "
        "before it is multiplied by the learning rate (decoupled)",
    ),
    "optimizer.decay_norm_and_bias": Field(
        False, _FLAG, "apply weight decay to batch norm and biases, too"
    ),
    "optimizer.clip_norm": Field(
        0.0, _number(), "largest global norm of the gradient; 0: no limit"
    ),
    "optimizer.lr_multipliers": Field(
        (),
        _LR_MULTIPLIERS,
        'layer-wise learning rates: (pattern, factor) pairs, as in (("classifier/*", 1.0), '
        '("*", 0.1)); the first pattern that matches a parameter\'s path applies',
    ),
    "schedule.name": Field(
        "step", _one_of("step", "cosine", "constant", "exponential"), "shape of the schedule"
    ),
    "schedule.warmup_epochs": Field(1.0, _number(), "length of the linear warm-up, in epochs"),
    "schedule.warmup_factor": Field(
        0.1, _number(0, 1), "the warm-up starts at this factor times the peak"
    ),
    "schedule.milestones": Field(
        (100, 150), _MILESTONES, "step: epochs after which the rate is multiplied by gamma"
    ),
    "schedule.gamma": Field(0.1, _number(0, 1), "step: factor at each milestone"),
    "schedule.decay_rate": Field(
        0.97, _positive(1), "exponential: factor every decay_epochs epochs"
    ),
    "schedule.decay_epochs": Field(2.4, _positive(), "exponential: see decay_rate"),
    "schedule.staircase": Field(
        True, _FLAG, "exponential: drop once every decay_epochs epochs, not smoothly"
    ),
    "loss": Field(
        "softmax",
        _one_of("softmax", "bce"),
        'cross entropy of the softmax; "bce": of the sigmoid of each class (se_flax.losses)',
    ),
    "class_weights": Field(
        "",
        _CLASS_WEIGHTS,
        'weight of each class in the loss, in training; "balanced": all classes together weigh the '
        "same (se_flax.class_weights); empty: every image weighs the same",
    ),
    "label_smoothing": Field(0.0, _FRACTION, "share of the target that is spread over all classes"),
    "auxiliary_weight": Field(
        0.4, _number(), "weight of the loss of auxiliary logits, in networks that have them"
    ),
    "ema_decay": Field(
        0.0,
        _FRACTION,
        "decay per step of a moving average of parameters and batch statistics; 0: no average",
    ),
    "on_nonfinite": Field(
        "stop",
        _one_of("stop", "skip"),
        'if the loss or the gradient is not finite: "stop" the run, or "skip" and count the update',
    ),
    "steps_per_dispatch": Field(
        0,
        _whole(0),
        "images in memory: training steps per dispatch to the devices; 0: one on a CPU, elsewhere "
        "chosen automatically",
    ),
    "log_every_steps": Field(100, _whole(1), "steps between rows of metrics.jsonl"),
    "profile_steps": Field(
        0,
        _whole(0),
        "steps to trace, after the first dispatch, for TensorBoard's profiler; 0: none",
    ),
    "eval_every_epochs": Field(1, _whole(1), "epochs between evaluations"),
    "eval_batch_size": Field(500, _whole(1, 2**20), "images evaluated at once, over all devices"),
    "checkpoint_every_minutes": Field(
        5.0, _number(), "minutes between checkpoints, in addition to one at each evaluation"
    ),
}

# Fields that act on streamed images only, with the values that data sets in memory accept.
STREAMED_ONLY = {
    "dataset.image_size": 0,
    "dataset.crop_pct": 0.0,
    "dataset.interpolation": "",
    "dataset.workers": 0,
    "augment.random_resized_crop": False,
}


def default_config() -> ConfigDict:
    """Returns the configuration that every config file starts from.

    `FIELDS` has the meaning of each field. The fields are locked: setting one that does not exist
    is an error.
    """
    return nested({name: field.default for name, field in FIELDS.items()})


def nested(values: Mapping[str, Any]) -> ConfigDict:
    """Returns a locked configuration of values by dotted name."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *path, leaf = name.split(".")
        section = tree
        for key in path:
            section = section.setdefault(key, {})
        # Alone of all fields, it can hold a text or a tuple.
        any_type = name == "class_weights"
        section[leaf] = FieldReference(value, field_type=object) if any_type else value
    config = ConfigDict(tree)
    config.lock()
    config.model.overrides.unlock()
    return config


def leaves(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of the fields of a configuration."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict) and name != "model.overrides":
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def check_config(config: ConfigDict, names_dataset: bool = True) -> None:
    """Raises `UserError` for the first field of a configuration that cannot be used.

    Checks everything that needs neither data nor compilation: names and types of fields, their
    ranges, the model with its overrides, and the data set's name.

    Args:
        config: the configuration.
        names_dataset: False if the run is given its data set from Python, so that the
            configuration does not name it.
    """
    given = dict(leaves(config))
    for name in given:
        if name not in FIELDS:
            raise UserError(f'there is no config field "{name}"{nearest(name, FIELDS)}')
    for name, field in FIELDS.items():
        if name not in given:
            raise UserError(
                f'the config lacks the field "{name}"; start from se_flax.config.default_config()'
            )
        if not field.kind.allows(given[name]):
            raise UserError(f"config.{name} must be {field.kind.expected}, not {given[name]!r}")
    check_combinations(config)
    if names_dataset:
        check_names_labels(config)
    if names_dataset and not config.dataset.image_dir:
        check_dataset_name(config.dataset.name)
        if config.dataset.name in known_datasets():
            check_held_in_memory(config, config.dataset.name)
    build_model(config, num_classes=2)
    if config.init_from:
        check_source(config.model.name, config.init_from)


def check_held_in_memory(config: ConfigDict, dataset: str) -> None:
    """Raises `UserError` if a field is set that does nothing for images held in memory."""
    given = dict(leaves(config))
    for name, unset in STREAMED_ONLY.items():
        if given[name] != unset:
            raise UserError(
                f"config.{name}={given[name]} has no effect on {dataset}, whose images are held "
                f"in memory at their own size; leave it at {unset!r}"
            )


def build_model(config: ConfigDict, num_classes: int, sync_axis: str | None = None) -> nn.Module:
    """Returns the network of a config; it shares batch statistics over the axis `sync_axis`."""
    overrides = config.model.overrides.to_dict()
    # Reading a config from JSON turns tuples into lists.
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    return create_model(
        config.model.name,
        num_classes,
        dtype=jnp.dtype(config.dtype),
        sync_axis=sync_axis,
        remat=config.remat,
        **overrides,
    )
