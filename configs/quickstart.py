"""SE-ResNet-20 on scikit-learn's handwritten digits: no download, about a minute on a laptop.

The images have 8x8 pixels. They are shifted by up to one pixel and not flipped: the mirror image of
a digit is rarely a digit.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()

    # Model
    config.model.name = "se_resnet20_cifar"
    config.model.overrides.reduction = 4

    # Data
    config.dataset.name = "digits"

    # Augmentation
    config.augment.crop_padding = 1
    config.augment.horizontal_flip = False

    # Optimiser
    config.batch_size = 128
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.5
    config.schedule.warmup_factor = 0.1

    # Length
    config.num_epochs = 30
    return config
