"""A run's configuration: one table with every field, its default, its check and its meaning."""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict, FieldReference

from se_flax.config_checks import (
    check_classifier,
    check_combinations,
    check_detector,
    check_names_labels,
    check_progressive,
)
from se_flax.config_kinds import (
    CHARACTER,
    CLASS_WEIGHTS,
    CROP_AREA,
    CROP_PCT,
    FLAG,
    FRACTION,
    LR_MULTIPLIERS,
    MEAN,
    MILESTONES,
    OVERRIDES,
    STD,
    TEXT,
    Field,
    number,
    one_of,
    positive,
    whole,
)
from se_flax.data.augment import POLICIES
from se_flax.data.sources import check_dataset_name, known_datasets
from se_flax.detection.create import create_detector, is_detector
from se_flax.detection.shapes import GENERATED
from se_flax.errors import UserError, nearest
from se_flax.models import create_model
from se_flax.pretrained.load import check_source

FIELDS: dict[str, Field] = {
    "seed": Field(0, whole(0, 2**32 - 1), "seed of every random stream of the run (se_flax.rng)"),
    "num_seeds": Field(
        1, whole(1, 2**16), "networks to train as one run, with seeds seed, seed + 1, ..."
    ),
    "seed_mode": Field(
        "auto",
        one_of("auto", "vmap", "in_turn"),
        'how to train several seeds: "vmap" computes them at once, "in_turn" one after the other '
        'at each step; "auto" is "vmap" on a TPU for images held in memory, else "in_turn"',
    ),
    "model.name": Field(
        "se_resnet20_cifar",
        TEXT,
        "one of se_flax.list_models(), or a detector (se_flax.detection.list_detectors())",
    ),
    "model.overrides": Field({}, OVERRIDES, "keyword arguments for se_flax.create_model"),
    "init_from": Field(
        "",
        TEXT,
        "published weights to start from: a hub id or a file (see se_flax.load_pretrained); the "
        "classifier is new if the number of classes differs; detectors: weights of the trunk or of "
        "the whole detector",
    ),
    "freeze_backbone": Field(
        False, FLAG, "train the classifier only; the backbone computes as in evaluation"
    ),
    "dtype": Field(
        "float32", one_of("float32", "bfloat16"), "type to compute in; parameters stay float32"
    ),
    "sync_batch_norm": Field(
        False, FLAG, "compute batch statistics over all devices, not on each device alone"
    ),
    "remat": Field(
        False, FLAG, "compute maps again for the gradient: less memory, more time, same result"
    ),
    "dataset.name": Field(
        "cifar10",
        TEXT,
        f"held in memory: {', '.join(known_datasets())}; streamed: any other TFDS data set with "
        "images and labels; detectors: shapes, coco/2017 and other TFDS data sets with boxes",
    ),
    "dataset.data_dir": Field(
        "", TEXT, "folder of TFDS data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    ),
    "dataset.image_dir": Field(
        "",
        TEXT,
        "folder of images, used instead of name: train/<class>/*.jpg and val/<class>/*.jpg",
    ),
    "dataset.coco": Field(
        "",
        TEXT,
        "detectors: folder of images with annotations in COCO's format, used instead of name (see "
        "se_flax.detection.coco)",
    ),
    "dataset.short_side": Field(
        800, whole(1, 8192), "detectors: pixels of the short side to which images are resized"
    ),
    "dataset.long_side": Field(
        1333, whole(1, 8192), "detectors: most pixels of the long side; see short_side"
    ),
    "dataset.labels": Field(
        "",
        TEXT,
        "CSV file with the classes of the images in image_dir, in which it is if the path is "
        "relative (see se_flax.data.label_file); empty: an image's folder is its class",
    ),
    "dataset.multi_label": Field(
        False, FLAG, 'an image can have several classes, or none; needs loss="bce"'
    ),
    "dataset.label_separator": Field(
        ";", CHARACTER, "labels: character between the classes of an image"
    ),
    "dataset.exif_orientation": Field(
        False, FLAG, "turn the images of image_dir upright, as their EXIF orientation says"
    ),
    "dataset.skip_bad": Field(False, FLAG, "leave out images of image_dir that cannot be read"),
    "dataset.image_size": Field(
        0,
        whole(0, 4096),
        "streamed images: height and width the network sees; 0: as init_from's weights state, or "
        "else as the network was published",
    ),
    "dataset.train_size": Field(
        0, whole(0, 4096), "streamed images: height and width in training; 0: as image_size"
    ),
    "dataset.crop_pct": Field(
        0.0,
        CROP_PCT,
        "streamed images: share of the short side that evaluation sees; 0: as for image_size",
    ),
    "dataset.interpolation": Field(
        "",
        one_of("", "bilinear", "bicubic"),
        "streamed images: how evaluation resizes; empty: as for image_size",
    ),
    "dataset.mean": Field(
        (),
        MEAN,
        "mean of each channel, on a scale of 0 to 1, that is subtracted; empty: as init_from's "
        "weights state, or else of the data set, if known, or the network; the run stores it",
    ),
    "dataset.std": Field((), STD, "standard deviation of each channel, to divide by; see mean"),
    "dataset.workers": Field(
        0, whole(0, 1024), "streamed images: processes that read them; 0: threads"
    ),
    "validation_fraction": Field(
        0.0, FRACTION, "share of the training images to hold out for choosing the best checkpoint"
    ),
    "augment.repeats": Field(
        1,
        whole(1, 64),
        "copies of an image in a batch, each augmented in its own way; an epoch has as many images "
        "as before, so fewer different ones",
    ),
    "augment.crop_padding": Field(
        4,
        whole(0, 4096),
        "pixels of mean colour added on each side before a random crop to the original size; "
        "0: no crop",
    ),
    "augment.random_resized_crop": Field(
        False, FLAG, "streamed images: a crop of random area and shape, resized"
    ),
    "augment.crop_area": Field(
        (0.08, 1.0),
        CROP_AREA,
        "random_resized_crop: smallest and largest share of the image that a crop covers",
    ),
    "augment.horizontal_flip": Field(
        True, FLAG, "flip half of the images, in data sets where a flip keeps the class"
    ),
    "augment.policy": Field(
        "",
        one_of("", "randaugment", "randaugment_timm", *POLICIES),
        '"randaugment", "randaugment_timm" (timm\'s "rand-m9-inc1") or the name of an AutoAugment '
        "policy; empty: none",
    ),
    "augment.num_ops": Field(2, whole(1, 16), "randaugment: number of operations on each image"),
    "augment.magnitude": Field(
        9.0, number(), "randaugment: level of the operations; randaugment_timm: at most 10"
    ),
    "augment.magnitude_std": Field(
        0.0, number(), "randaugment_timm: standard deviation of the strength of each operation"
    ),
    "augment.cutout": Field(0, whole(0, 4096), "side of the square to blank, in pixels; 0: none"),
    "augment.random_erasing": Field(0.0, number(0, 1), "probability of random erasing"),
    "augment.erasing_form": Field(
        "zhong",
        one_of("zhong", "torchvision"),
        'random_erasing: "zhong": boxes as in its authors\' code, up to 40% of the image; '
        '"torchvision": up to 33%',
    ),
    "augment.mixup": Field(0.0, number(), "alpha of mixup; 0: none"),
    "augment.cutmix": Field(0.0, number(), "alpha of cutmix; 0: none"),
    "augment.mix_by": Field(
        "pair",
        one_of("pair", "batch"),
        'mixup, cutmix: "pair" draws which of the two, share and box for each pair of images; '
        '"batch" once for the whole batch, as in timm',
    ),
    "progressive.stages": Field(
        1, whole(1, 64), "equal parts of the run, in which streamed images grow (se_flax.stages)"
    ),
    "progressive.train_size": Field(128, whole(1, 4096), "first stage: see dataset.train_size"),
    "progressive.magnitude": Field(5.0, number(), "first stage: see augment.magnitude"),
    "progressive.mixup": Field(0.0, number(), "first stage: see augment.mixup"),
    "progressive.dropout": Field(0.1, FRACTION, "first stage: dropout rate of the network"),
    "batch_size": Field(128, whole(1, 2**20), "images per step, over all devices"),
    "accumulate_steps": Field(
        1,
        whole(1, 2**20),
        "parts in which each device computes its images of a step, one after another, to save "
        "memory; batch norm uses the statistics of each part",
    ),
    "num_epochs": Field(200, whole(1), "length of the run, in epochs"),
    "optimizer.name": Field(
        "sgd",
        one_of("sgd", "rmsprop", "rmsprop_torch", "adadelta", "adam", "adamw", "lamb"),
        "update rule; rmsprop is TensorFlow's, rmsprop_torch PyTorch's (se_flax.optim)",
    ),
    "optimizer.learning_rate": Field(0.1, number(), "learning rate at the peak of the schedule"),
    "optimizer.base_batch_size": Field(
        0,
        whole(0),
        "batch size that learning_rate is for; the rate scales with batch_size; 0: no scaling",
    ),
    "optimizer.momentum": Field(
        0.9, number(0, 1), "momentum; beta_1 of adam, adamw and lamb; no effect on adadelta"
    ),
    "optimizer.nesterov": Field(True, FLAG, "sgd: Nesterov momentum"),
    "optimizer.decay": Field(
        0.0,
        FRACTION,
        "decay of the mean squared gradient (not sgd); 0: the rule's usual value (se_flax.optim)",
    ),
    "optimizer.epsilon": Field(
        0.0, number(), "added to the mean squared gradient or its root; 0: the rule's usual value"
    ),
    "optimizer.weight_decay": Field(
        1e-4,
        number(),
        "this times the parameters is added to the gradient (an L2 penalty); adamw and lamb: to "
        "the update, before it is multiplied by the learning rate (decoupled)",
    ),
    "optimizer.decay_norm_and_bias": Field(
        False, FLAG, "apply weight decay to batch norm and biases, too"
    ),
    "optimizer.clip_norm": Field(0.0, number(), "largest global norm of the gradient; 0: no limit"),
    "optimizer.lr_multipliers": Field(
        (),
        LR_MULTIPLIERS,
        'layer-wise learning rates: (pattern, factor) pairs, as in (("classifier/*", 1.0), '
        '("*", 0.1)); the first pattern that matches a parameter\'s path applies',
    ),
    "schedule.name": Field(
        "step", one_of("step", "cosine", "constant", "exponential"), "shape of the schedule"
    ),
    "schedule.warmup_epochs": Field(1.0, number(), "length of the linear warm-up, in epochs"),
    "schedule.warmup_factor": Field(
        0.1, number(0, 1), "the warm-up starts at this factor times the peak"
    ),
    "schedule.milestones": Field(
        (100, 150), MILESTONES, "step: epochs after which the rate is multiplied by gamma"
    ),
    "schedule.gamma": Field(0.1, number(0, 1), "step: factor at each milestone"),
    "schedule.decay_rate": Field(
        0.97, positive(1), "exponential: factor every decay_epochs epochs"
    ),
    "schedule.decay_epochs": Field(2.4, positive(), "exponential: see decay_rate"),
    "schedule.staircase": Field(
        True, FLAG, "exponential: drop once every decay_epochs epochs, not smoothly"
    ),
    "loss": Field(
        "softmax",
        one_of("softmax", "bce"),
        'cross entropy of the softmax; "bce": of the sigmoid of each class (se_flax.losses)',
    ),
    "class_weights": Field(
        "",
        CLASS_WEIGHTS,
        'weight of each class in the loss, in training; "balanced": all classes together weigh the '
        "same (se_flax.class_weights); empty: every image weighs the same",
    ),
    "label_smoothing": Field(0.0, FRACTION, "share of the target that is spread over all classes"),
    "target_threshold": Field(
        0.0,
        FRACTION,
        'loss="bce": the target of a class is 1 if its share of a mixed image is above this, else '
        "0; 0: the target is the share",
    ),
    "auxiliary_weight": Field(
        0.4, number(), "weight of the loss of auxiliary logits, in networks that have them"
    ),
    "ema_decay": Field(
        0.0,
        FRACTION,
        "decay per step of a moving average of parameters and batch statistics; 0: no average",
    ),
    "on_nonfinite": Field(
        "stop",
        one_of("stop", "skip"),
        'if the loss or the gradient is not finite: "stop" the run, or "skip" and count the update',
    ),
    "steps_per_dispatch": Field(
        0,
        whole(0),
        "images in memory: training steps per dispatch to the devices; 0: one on a CPU, elsewhere "
        "chosen automatically",
    ),
    "log_every_steps": Field(100, whole(1), "steps between rows of metrics.jsonl"),
    "profile_steps": Field(
        0,
        whole(0),
        "steps to trace, after the first dispatch, for TensorBoard's profiler; 0: none",
    ),
    "eval_every_epochs": Field(1, whole(1), "epochs between evaluations"),
    "eval_batch_size": Field(500, whole(1, 2**20), "images evaluated at once, over all devices"),
    "checkpoint_every_minutes": Field(
        5.0, number(), "minutes between checkpoints, in addition to one at each evaluation"
    ),
}

# Fields that act on streamed images only, with the values that data sets in memory accept.
STREAMED_ONLY = {
    "dataset.image_size": 0,
    "dataset.train_size": 0,
    "dataset.crop_pct": 0.0,
    "dataset.interpolation": "",
    "dataset.workers": 0,
    "augment.random_resized_crop": False,
    "progressive.stages": 1,
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
    detects = is_detector(config.model.name)
    (check_detector if detects else check_classifier)(config, given)
    if names_dataset:
        check_names_labels(config)
        check_named_dataset(config)
    model = build_model(config, num_classes=2)
    check_progressive(config, given, getattr(model, "dropout", 0.0))
    if config.init_from and not detects:
        check_source(config.model.name, config.init_from)


def check_named_dataset(config: ConfigDict) -> None:
    """Raises `UserError` if the data set that a config names is known to be of no use."""
    name, detects = config.dataset.name, is_detector(config.model.name)
    if config.dataset.image_dir or config.dataset.coco or (detects and name == GENERATED):
        return
    if name == GENERATED:
        raise UserError(
            f"the images of {name} are for detectors, and {config.model.name} is none; use another "
            "data set, or config.model.name=fasterrcnn_..."
        )
    check_dataset_name(name)
    if name not in known_datasets():
        return
    if detects:
        raise UserError(
            f"the images of {name} have no boxes, which {config.model.name} needs; use "
            f'config.dataset.coco=DIR, config.dataset.name="{GENERATED}" or "coco/2017"'
        )
    check_held_in_memory(config, name)


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
    fields = {"dtype": jnp.dtype(config.dtype), "remat": config.remat, **overrides}
    if is_detector(config.model.name):
        return create_detector(config.model.name, num_classes, **fields)
    return create_model(config.model.name, num_classes, sync_axis=sync_axis, **fields)
