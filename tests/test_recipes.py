"""Recipes have their published values, and train."""

import pytest

from se_flax.train import train
from tests.test_configs import load

# Table 2 of arXiv:2110.00476, by columns, where A2 and A3 agree and where they differ.
RSB_TABLE = {
    "batch_size": 2048,
    "optimizer.name": "lamb",
    "optimizer.weight_decay": 0.02,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5,
    "label_smoothing": 0.0,
    "augment.horizontal_flip": True,
    "augment.magnitude_std": 0.5,
    "augment.mixup": 0.1,
    "augment.cutmix": 1.0,
    "augment.mix_by": "batch",
    "dataset.image_size": 224,
    "dataset.crop_pct": 0.95,
    "loss": "bce",
    "target_threshold": 0.2,
}
RSB_TABLES = {
    "a2": {
        "num_epochs": 300,
        "optimizer.learning_rate": 5e-3,
        "augment.repeats": 3,
        "augment.magnitude": 7.0,
        "model.overrides.stochastic_depth": 0.05,
    },
    "a3": {
        "num_epochs": 100,
        "optimizer.learning_rate": 8e-3,
        "augment.repeats": 1,
        "augment.magnitude": 6.0,
        "model.overrides.stochastic_depth": 0.0,
    },
}
MOBILENET_V3 = {  # the command in torchvision's README
    "batch_size": 1024,
    "num_epochs": 600,
    "optimizer.name": "rmsprop_torch",
    "optimizer.decay": 0.9,
    "optimizer.epsilon": 0.0316,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-5,
    "optimizer.decay_norm_and_bias": True,
    "augment.policy": "autoaugment_imagenet_torchvision",
    "augment.random_erasing": 0.2,
    "augment.erasing_form": "torchvision",
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    "dataset.image_size": 224,
    "dataset.crop_pct": 0.875,
}
EFFICIENTNET_V2 = {  # section 5.1 of arXiv:2104.00298
    "batch_size": 4096,
    "num_epochs": 350,
    "optimizer.name": "rmsprop",
    "optimizer.decay": 0.9,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-5,
    "ema_decay": 0.9999,
    "augment.policy": "randaugment",
    "model.overrides.stochastic_depth": 0.2,
}


@pytest.mark.parametrize(
    ("name", "argument", "values"),
    [
        ("rsb_imagenet", "a2", RSB_TABLE | RSB_TABLES["a2"]),
        ("rsb_imagenet", "a3", RSB_TABLE | RSB_TABLES["a3"]),
        ("mobilenet_v3_imagenet", "large", MOBILENET_V3),
        ("mobilenet_v3_imagenet", "small", MOBILENET_V3),
        *(("efficientnet_v2_imagenet", size, EFFICIENTNET_V2) for size in "sml"),
    ],
)
def test_recipes_have_their_published_values(name, argument, values):
    config = load(name, argument)
    for field, value in values.items():
        at = config
        for key in field.split("."):
            at = at[key]
        assert at == value, field


# Small networks with the fields that recipes override.
SMALL = {"stage_sizes": (1, 1, 1, 1), "widths": (4, 4, 8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["a2", "a3,resnet50"])
def test_procedures_for_resnets_train(argument, image_dir, tmp_path):
    config = load("rsb_imagenet", argument)
    config.model.overrides.update(SMALL)
    shorten(config, image_dir)
    assert train(config, tmp_path)["steps"] == 6


@pytest.mark.slow
def test_the_recipe_for_efficientnets_v2_trains(image_dir, tmp_path):
    config = load("efficientnet_v2_imagenet", "s")
    stages = ((True, 1, 8, 1, 1), (True, 1, 8, 2, 4), (False, 1, 8, 2, 4))
    config.model.overrides.stages = stages
    shorten(config, image_dir)
    config.progressive.train_size = 16
    assert train(config, tmp_path)["steps"] == 6


@pytest.mark.slow
def test_the_recipe_for_mobilenets_trains(image_dir, tmp_path):
    config = load("mobilenet_v3_imagenet", "small")
    shorten(config, image_dir)
    assert train(config, tmp_path)["steps"] == 6


def shorten(config, image_dir):
    """Changes a recipe to a few steps on small images of a folder."""
    config.dataset.image_dir = str(image_dir)
    config.dataset.image_size = 48
    if config.dataset.train_size:
        config.dataset.train_size = 32
    config.batch_size, config.num_epochs = 16, 2
