"""SE-ResNeXt (32x4d) on ImageNet; the argument is the depth: configs/se_resnext_imagenet.py:101.

The depth is 50 (the default) or 101. resnext_imagenet.py is the same run without SE blocks.

The recipe is from Hu et al. (arXiv:1709.01507, section 5.1), as in se_resnet_imagenet.py, which
gives the reasons for what the paper leaves open: SGD with momentum 0.9, batches of 1024, learning
rate 0.6 divided by 10 every 30 epochs, 100 epochs, and images cropped at random in size and aspect
ratio and flipped. The learning rate scales with `--config.batch_size`.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

DEPTHS = ("50", "101")


def get_config(depth: str = "50", *, se: bool = True) -> ConfigDict:
    check_choice("ResNeXt of depth", depth, DEPTHS)
    config = default_config()

    # Model
    config.model.name = f"se_resnext{depth}_32x4d" if se else f"resnext{depth}_32x4d"

    # Data
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 0  # the network's own

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 1024
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.6
    config.optimizer.base_batch_size = 1024
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 0
    config.schedule.milestones = (30, 60, 90)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 100
    return config
