"""SENet-154 on ImageNet, as far as the SE paper describes it (arXiv:1709.01507, appendix).

The paper gives batches of 2048 with learning rate 1.0, label smoothing, and dropout of 0.2 before
the classifier (here a part of the network). For label smoothing it only cites Szegedy et al.
(arXiv:1512.00567), whose 0.1 is used here. It freezes batch norm in "the last few training epochs";
this run does not.

The rest is as for the paper's other networks: see se_resnet_imagenet.py for the reasons.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()

    # Model
    config.model.name = "senet154"

    # Data
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 0  # the network's own

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 2048
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1.0
    config.optimizer.base_batch_size = 2048
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False
    config.label_smoothing = 0.1

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 0
    config.schedule.milestones = (30, 60, 90)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 100
    return config
