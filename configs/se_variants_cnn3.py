"""Three-layer CNN on CIFAR-10, with a variant of the SE block as its second layer.

The argument is the variant: configs/se_variants_cnn3.py:bump. The others are "standard" (the SE
block, which is used if no argument is given), "slow_squeeze", "slow_excite" and
"slow_squeeze_slow_excite". "default" is the paper's name for the network without a block, which
keeps the convolution.

The recipe is from "Variations of Squeeze and Excitation networks" (arXiv:2304.06502, section 2):
CIFAR-10, Adadelta at learning rate 1.0, multiplied by 0.7 after each epoch, batches of 64, and 50
epochs. The paper mentions no augmentation and no weight decay, and there are none here.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice
from se_flax.layers.squeeze_excite import VARIANTS


def get_config(variant: str = "standard") -> ConfigDict:
    check_choice("variant of the SE block", variant, ("default", *VARIANTS))
    config = default_config()

    # Model
    if variant == "default":
        config.model.name = "cnn3"
    else:
        config.model.name = "se_cnn3"
        config.model.overrides.variant = variant

    # Data
    config.dataset.name = "cifar10"

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.horizontal_flip = False

    # Optimiser
    config.batch_size = 64
    config.optimizer.name = "adadelta"
    config.optimizer.learning_rate = 1.0
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0

    # Schedule
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 0
    config.schedule.decay_rate = 0.7
    config.schedule.decay_epochs = 1.0
    config.schedule.staircase = True

    # Length
    config.num_epochs = 50
    return config
