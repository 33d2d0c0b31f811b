"""EfficientNet on ImageNet; the argument is the network: configs/efficientnet_imagenet.py:b4.

b0 to b7. The recipe of Tan and Le (arXiv:1905.11946, section 5.2): RMSProp with decay and
momentum 0.9, weight decay 1e-5, learning rate 0.256 multiplied by 0.97 every 2.4 epochs,
AutoAugment, stochastic depth with survival probability 0.8, dropout from 0.2 (b0) to 0.5 (b7), and
batch norm with momentum 0.99; the last two are part of the networks.

What the paper leaves open is as in the authors' code (tensorflow/tpu, models/official/
efficientnet, main.py and utils.py): 350 epochs, 0.016 as the learning rate of a batch of 256, by
which the paper's 0.256 is that of 4096, a linear warm-up of 5 epochs from 0, label smoothing 0.1,
eps 0.001 of RMSProp, and an average of the weights with decay 0.9999. There, batch norm alone is
kept out of weight decay; here biases are too. There, training crops are resized bicubically; here
by the mean of what is covered where they become smaller, and bilinearly elsewhere.

A smaller batch scales the learning rate: 0.016 for `--config.batch_size=256`.
"""

from ml_collections import ConfigDict

from configs.imagenet_recipe import check_argument, imagenet_config


def get_config(network: str = "b0") -> ConfigDict:
    check_argument(network, tuple(f"b{i}" for i in range(8)))
    config = imagenet_config(f"efficientnet_{network}")
    config.model.overrides.stochastic_depth = 0.2
    config.augment.policy = "autoaugment_imagenet"

    config.batch_size = 4096
    config.num_epochs = 350
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 0.256
    config.optimizer.base_batch_size = 4096
    config.optimizer.momentum = 0.9
    config.optimizer.decay = 0.9
    config.optimizer.epsilon = 1e-3
    config.optimizer.weight_decay = 1e-5
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 5
    config.schedule.warmup_factor = 0.0
    config.schedule.decay_rate = 0.97
    config.schedule.decay_epochs = 2.4
    config.schedule.staircase = True
    config.label_smoothing = 0.1
    config.ema_decay = 0.9999
    return config
