"""A config for the tests: a small SE-ResNet on the digits, 6 epochs of 11 steps."""

import pathlib

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "se_resnet20_cifar"
    config.model.overrides.update({"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2})
    config.dataset.name = "digits"
    config.augment.crop_padding = 1
    config.num_epochs = 6
    config.schedule.warmup_epochs = 0
    config.schedule.milestones = (3, 4.5)
    return config


def stream(config: ConfigDict, image_dir: pathlib.Path) -> None:
    """Changes a config to stream the images of a folder, cropped at random to 16x16."""
    config.dataset.image_dir = str(image_dir)
    config.dataset.image_size = 16
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.batch_size = 8


def stream_options(image_dir: pathlib.Path) -> tuple[str, ...]:
    """Returns the command-line options that do the same as `stream`."""
    return (
        f"--config.dataset.image_dir={image_dir}",
        "--config.dataset.image_size=16",
        "--config.augment.crop_padding=0",
        "--config.augment.random_resized_crop=True",
        "--config.batch_size=8",
    )
