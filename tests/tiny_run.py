"""A config for the tests: a small SE-ResNet on the digits, 6 epochs of 11 steps."""

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "se_resnet20_cifar"
    config.model.overrides.update({"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2})
    config.dataset.name = "digits"
    config.augment.crop_padding = 1
    config.num_epochs = 6
    return config
