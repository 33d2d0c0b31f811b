"""SE-ResNet-20 on scikit-learn's handwritten digits: no download, about a minute on a laptop."""

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "se_resnet20_cifar"
    config.model.overrides.reduction = 4
    config.dataset.name = "digits"
    config.augment.crop_padding = 1  # of 8 pixels
    config.augment.horizontal_flip = False
    config.num_epochs = 30
    config.optimizer.learning_rate = 0.1
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.5
    return config
