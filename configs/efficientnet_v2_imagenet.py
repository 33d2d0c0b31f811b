"""EfficientNetV2 on ImageNet; the argument is the size: configs/efficientnet_v2_imagenet.py:m.

The network is s (the default), m or l.

The recipe is from Tan and Le (arXiv:2104.00298, section 5.1 and table 6): RMSProp with decay and
momentum 0.9, weight decay 1e-5, a batch of 4096, learning rate 0.256 multiplied by 0.97 every 2.4
epochs after a warm-up from 0, 350 epochs, a moving average of the weights with decay 0.9999,
stochastic depth with survival probability 0.8, and batch norm with momentum 0.99, which is part of
the networks. Learning is progressive: in four stages of equal length, the training images grow from
128 pixels to 300 (s) or 380 (m and l), the magnitude of RandAugment from 5 to 15 (s), 20 (m) or 25
(l), alpha of mixup from 0 to 0.2 (m) or 0.5 (l; s has no mixup), and the dropout rate from 0.1 to
0.3 (s), 0.4 (m) or 0.5 (l). Images are evaluated at 384 (s) or 480 pixels.

What the paper leaves open follows the authors' code (google/automl, efficientnetv2, hparams.py and
preprocessing.py):

- The learning rate scales with the batch, and the warm-up takes 5 epochs.
- Label smoothing is 0.1, and the epsilon of RMSProp 0.001.
- RandAugment has 2 operations. Random crops cover at least 5% of an image.
- Images are evaluated whole, and scaled to values from -1 to 1, as the networks state.

The code has other stages than the paper, whose values are used here. In the code, the sizes grow
from a quarter of the way between 128 and the last size (171 for s), which is 384 for m and l;
magnitudes grow to 10, 15 and 20; CutMix with the alpha of mixup is used for half of each batch; and
the dropout rate is 0.2, 0.3 or 0.4 in all stages. A size that is not a whole number is rounded.

One more thing differs from the code. It resizes training crops bilinearly; here crops are shrunk by
averaging over pixels, and enlarged bilinearly.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

# Of the last stage: size of the training images, magnitude, alpha of mixup, dropout rate.
LAST_STAGE = {
    "s": (300, 15.0, 0.0, 0.3),
    "m": (380, 20.0, 0.2, 0.4),
    "l": (380, 25.0, 0.5, 0.5),
}


def get_config(size: str = "s") -> ConfigDict:
    check_choice("EfficientNetV2", size, LAST_STAGE)
    train_size, magnitude, mixup, dropout = LAST_STAGE[size]
    config = default_config()

    # Model
    config.model.name = f"efficientnet_v2_{size}"
    config.model.overrides.stochastic_depth = 0.2
    config.model.overrides.dropout = dropout

    # Data
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 0  # the network's own
    config.dataset.train_size = train_size

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.05, 1.0)
    config.augment.horizontal_flip = True
    config.augment.policy = "randaugment"
    config.augment.num_ops = 2
    config.augment.magnitude = magnitude
    config.augment.mixup = mixup

    # Progressive learning
    config.progressive.stages = 4
    config.progressive.train_size = 128
    config.progressive.magnitude = 5.0
    config.progressive.mixup = 0.0
    config.progressive.dropout = 0.1

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
