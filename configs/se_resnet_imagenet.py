"""SE-ResNet on ImageNet; the argument is the depth: configs/se_resnet_imagenet.py:101.

The depth is 18, 34, 50 (the default), 101 or 152. resnet_imagenet.py is the same run without SE
blocks.

The recipe is from Hu et al. (arXiv:1709.01507, section 5.1), who train all networks in the same
way, with SE blocks or without: SGD with momentum 0.9, batches of 1024, learning rate 0.6 divided by
10 every 30 epochs, 100 epochs, and images cropped at random in size and aspect ratio and flipped.
Where the paper leaves something open:

- Weight decay is 1e-4, as in He et al. (arXiv:1512.03385, section 3.4). Batch norm and biases do
  not decay. Momentum is not Nesterov's.
- Crops cover at least 8% of the area, as the README of the authors' code (hujie-frank/SENet) says.
- The rotation and pixel jitter of that README, which the paper does not mention, are left out.
- The learning rate is for a batch of 1024 and scales with `--config.batch_size` (Goyal et al.,
  arXiv:1706.02677): it is 0.15 for 256.
- There is no warm-up. Goyal et al. warm up for five epochs: `--config.schedule.warmup_epochs=5`.

The weights that the authors released come from other runs: batches of 256, learning rate 0.1 and
more epochs, as their README says. Their networks are registered as `<name>_caffe`, for example
`--config.model.name=se_resnet50_caffe`.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

DEPTHS = ("18", "34", "50", "101", "152")


def get_config(depth: str = "50", *, se: bool = True) -> ConfigDict:
    check_choice("ResNet of depth", depth, DEPTHS)
    config = default_config()

    # Model
    config.model.name = f"se_resnet{depth}" if se else f"resnet{depth}"

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
