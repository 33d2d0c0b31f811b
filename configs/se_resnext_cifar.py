"""SE-ResNeXt-29 (8x64d) on CIFAR-10 or CIFAR-100.

The argument is the number of classes, 10 (the default) or 100: configs/se_resnext_cifar.py:100.
resnext_cifar.py is the same run without SE blocks.

The recipe is from Xie et al. (arXiv:1611.05431, section 5.3 and appendix): 300 epochs, with drops
at 150 and 225, and weight decay 5e-4. The rest is as in se_resnet_cifar100.py, which gives the
reasons.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice


def get_config(classes: str = "10", *, se: bool = True) -> ConfigDict:
    check_choice("CIFAR data set", classes, ("10", "100"))
    config = default_config()

    # Model
    config.model.name = "se_resnext29_8x64d_cifar" if se else "resnext29_8x64d_cifar"

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

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 1
    config.schedule.warmup_factor = 0.1
    config.schedule.milestones = (150, 225)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 300
    return config
