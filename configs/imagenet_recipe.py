"""The published recipe for SE networks on ImageNet, shared by the configs of this folder.

Hu et al. (arXiv:1709.01507, section 5.1): SGD with momentum 0.9, batch 1024, learning rate 0.6
divided by 10 every 30 epochs, 100 epochs; images cropped at random in size and aspect ratio and
mirrored; networks with SE blocks and without trained alike. Where it leaves something open:

- Weight decay is 1e-4, He et al.'s (arXiv:1512.03385, section 3.4), and momentum not Nesterov's.
  Batch norm and biases are kept out of decay.
- Crops have 8% of the area or more, by the README of the authors' code (hujie-frank/SENet).
- The rotation and pixel jitter of that README, which the paper does not have, are left out.
- The learning rate is that of a batch of 1024 and scales with `--config.batch_size`
  (Goyal et al., arXiv:1706.02677): 0.15 for 256.
- There is no warm-up; Goyal et al. begin with one of five epochs,
  `--config.schedule.warmup_epochs=5`.

The weights that the authors released come from other runs (batch 256, learning rate 0.1, more
epochs, by their README) of the networks under `<name>_caffe`, to be had by
`--config.model.name=se_resnet50_caffe`.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config


def imagenet_config(model: str) -> ConfigDict:
    """Returns the defaults, with a network and how ImageNet's images are cropped for it."""
    config = default_config()
    config.model.name = model
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 0  # the network's own
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True
    return config


def imagenet_recipe(model: str) -> ConfigDict:
    """Returns the config of a network trained as in the SE paper."""
    config = imagenet_config(model)
    config.batch_size = 1024
    config.num_epochs = 100
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.6
    config.optimizer.base_batch_size = 1024
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 0
    config.schedule.milestones = (30, 60, 90)
    config.schedule.gamma = 0.1
    return config


def check_argument(argument: str, known: tuple[str, ...]) -> None:
    """Raises `ValueError` unless a config knows its argument."""
    if argument not in known:
        raise ValueError(f'the argument must be one of {", ".join(known)}, not "{argument}"')
