"""EfficientNet on ImageNet; the argument is the network: configs/efficientnet_imagenet.py:b4.

The network is b0 (the default) to b7.

The recipe is from Tan and Le (arXiv:1905.11946, section 5.2): RMSProp with decay and momentum
0.9, weight decay 1e-5, learning rate 0.256 multiplied by 0.97 every 2.4 epochs, AutoAugment,
stochastic depth with survival probability 0.8, dropout from 0.2 (b0) to 0.5 (b7), and batch norm
with momentum 0.99. The last two are part of the networks.

What the paper leaves open follows the authors' code (tensorflow/tpu, models/official/efficientnet,
main.py and utils.py):

- The run has 350 epochs.
- The learning rate is 0.016 for a batch of 256, so the paper's 0.256 is for 4096. It scales with
  the batch: it is 0.016 for `--config.batch_size=256`.
- A linear warm-up from 0 takes 5 epochs.
- Label smoothing is 0.1, and the epsilon of RMSProp 0.001.
- Evaluation uses a moving average of the weights, with decay 0.9999.

Two things differ from that code. It excludes only batch norm from weight decay; here biases are
excluded as well. It resizes training crops bicubically; here crops are shrunk by averaging over
pixels, and enlarged bilinearly.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

NETWORKS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")


def get_config(network: str = "b0") -> ConfigDict:
    check_choice("EfficientNet", network, NETWORKS)
    config = default_config()

    # Model
    config.model.name = f"efficientnet_{network}"
    config.model.overrides.stochastic_depth = 0.2

    # Data
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 0  # the network's own

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True
    config.augment.policy = "autoaugment_imagenet"

    # Optimiser
    config.batch_size = 4096
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 0.256
    config.optimizer.base_batch_size = 4096
    config.optimizer.momentum = 0.9
    config.optimizer.decay = 0.9
    config.optimizer.epsilon = 1e-3
    config.optimizer.weight_decay = 1e-5
    config.optimizer.decay_norm_and_bias = False
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999

    # Schedule
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5
    config.schedule.warmup_factor = 0.0
    config.schedule.decay_rate = 0.97
    config.schedule.decay_epochs = 2.4
    config.schedule.staircase = True

    # Length
    config.num_epochs = 350
    return config
