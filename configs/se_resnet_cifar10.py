"""SE-ResNet on CIFAR-10; the argument is the depth: configs/se_resnet_cifar10.py:56.

The depth is 20, 32, 44, 56, 110 (the default) or 164. resnet_cifar10.py is the same run without SE
blocks.

The recipe is from He et al. (arXiv:1512.03385, section 4.2): SGD with momentum 0.9, batches of 128,
learning rate 0.1 divided by 10 at half and at three quarters of the run, weight decay 1e-4, and
images padded by 4 zeros, cropped and flipped at random. Hu et al. (arXiv:1709.01507, section 5.1)
train each network by the recipe of its own paper, with SE blocks as without.

se_resnet_cifar100.py differs only in its data set and its weight decay. It says what differs from
the papers (200 epochs, Nesterov momentum, normalisation by channel) and what makes the very deep
networks converge (warm-up, scales that start at 0, no decay of batch norm, means in float32).

experiments/backbones.py sets `preactivation`, to train pre-activation ResNets (arXiv:1603.05027)
with this recipe.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

DEPTHS = ("20", "32", "44", "56", "110", "164")


def get_config(depth: str = "110", *, se: bool = True, preactivation: bool = False) -> ConfigDict:
    check_choice("CIFAR ResNet of depth", depth, DEPTHS)
    config = default_config()

    # Model
    network = f"preact_resnet{depth}_cifar" if preactivation else f"resnet{depth}_cifar"
    config.model.name = f"se_{network}" if se else network
    if se:
        config.model.overrides.reduction = 16
    if not preactivation:  # a pre-activation unit does not end in a batch norm
        config.model.overrides.zero_init = int(depth) >= 110

    # Data
    config.dataset.name = "cifar10"

    # Augmentation
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 128
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 1
    config.schedule.warmup_factor = 0.1
    config.schedule.milestones = (100, 150)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 200
    return config
