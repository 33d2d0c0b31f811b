"""SE-Inception-v3 on CIFAR-10 or CIFAR-100.

The argument is the number of classes, 10 (the default) or 100: configs/se_inception_cifar.py:100.
inception_cifar.py is the same run without SE blocks.

The network's form for 32x32 pixels is this project's own, so there is no published recipe for it.
The recipe here is that of se_resnet_cifar100.py, which gives the reasons, with two differences: the
weight decay of 5e-4 is used for both data sets, and there is label smoothing, as in the network's
paper (arXiv:1512.00567, section 7).
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice


def get_config(classes: str = "10", *, se: bool = True) -> ConfigDict:
    check_choice("CIFAR data set", classes, ("10", "100"))
    config = default_config()

    # Model
    config.model.name = "se_inception_v3_cifar" if se else "inception_v3_cifar"

    # Data
    config.dataset.name = f"cifar{classes}"

    # Augmentation
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 128
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = False
    config.label_smoothing = 0.1

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 1
    config.schedule.warmup_factor = 0.1
    config.schedule.milestones = (100, 150)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 200
    return config
