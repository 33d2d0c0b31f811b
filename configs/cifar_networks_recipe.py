"""Recipes for other networks than ResNet on CIFAR, shared by the configs of this folder.

ResNeXt-29 has a published one (Xie et al., arXiv:1611.05431, section 5.3): that of ResNet
(`cifar_recipe.py`) for 300 epochs, with the drops at 150 and 225 and weight decay 5e-4.

Inception-v3 has none: its form for 32x32 pixels, and the recipe, that of ResNet with weight decay
5e-4 and the label smoothing of its paper (arXiv:1512.00567, section 7), are this project's.

The small CNN is that of Keras' example, whose recipe this is (Keras 2, examples/cifar10_cnn.py):
RMSprop at 1e-4 with batches of 32 for 100 epochs, on images shifted by up to a tenth and mirrored.
Keras' decay of the learning rate by 1e-6 a step, 14% in all, is left out; its epsilon of 1e-7
stands beside the root of the mean square, ours inside it. How SENet_Keras, which put an SE block
into a small CNN, trained it is not told.
"""

from ml_collections import ConfigDict

from configs.cifar_recipe import cifar_recipe
from se_flax.config import default_config

DATASETS = {"10": "cifar10", "100": "cifar100"}


def _dataset(classes: str) -> str:
    if classes not in DATASETS:
        raise ValueError(f'there is no CIFAR-"{classes}"; known are {", ".join(DATASETS)}')
    return DATASETS[classes]


def _base(model: str, classes: str, weight_decay: float) -> ConfigDict:
    config = cifar_recipe("", "20", _dataset(classes), weight_decay)
    config.model.name = model
    config.model.overrides = ConfigDict()
    return config


def resnext_cifar(prefix: str, classes: str) -> ConfigDict:
    """Returns the config of ResNeXt-29, 8x64d; `prefix` is "" or "se_", `classes` 10 or 100."""
    config = _base(f"{prefix}resnext29_8x64d_cifar", classes, weight_decay=5e-4)
    config.num_epochs = 300
    config.schedule.milestones = (150, 225)
    return config


def inception_cifar(prefix: str, classes: str) -> ConfigDict:
    """Returns the config of Inception-v3; `prefix` is "" or "se_", `classes` 10 or 100."""
    config = _base(f"{prefix}inception_v3_cifar", classes, weight_decay=5e-4)
    config.label_smoothing = 0.1
    return config


def small_cnn_cifar(prefix: str, classes: str) -> ConfigDict:
    """Returns the config of the small CNN; `prefix` is "" or "se_", `classes` 10 or 100."""
    config = default_config()
    config.model.name = f"{prefix}small_cnn"
    config.dataset.name = _dataset(classes)
    config.augment.crop_padding = 3
    config.augment.horizontal_flip = True
    config.batch_size = 32
    config.num_epochs = 100
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.epsilon = 1e-14
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 0
    return config
