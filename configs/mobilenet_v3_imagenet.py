"""MobileNetV3 on ImageNet; the argument is the size: configs/mobilenet_v3_imagenet.py:small.

The network is large (the default) or small, in the form that torchvision computes.

The recipe is torchvision's (github.com/pytorch/vision, references/classification, README.md and
train.py): RMSProp with alpha 0.9, eps 0.0316 and momentum 0.9, learning rate 0.064 for a batch of
8 x 128, multiplied by 0.973 every 2 epochs, weight decay 1e-5 of all parameters, AutoAugment with
the paper's policy for ImageNet, random erasing with probability 0.2, and 600 epochs. Howard et al.
(arXiv:1905.02244, section 6.1) train with other settings.

Values that the README does not name are train.py's defaults: there is no warm-up, no label
smoothing and no moving average of the weights, and images are evaluated at 224 of 256 pixels. The
learning rate scales with the batch.

Three things differ. The published weights are the mean of the last three checkpoints that improved
the accuracy; here there is no such mean. Empty pixels of a warp are grey here, and black there.
Crops are resized bilinearly there, with or without antialiasing; here they are shrunk by averaging
over pixels, and enlarged bilinearly.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

SIZES = ("large", "small")


def get_config(size: str = "large") -> ConfigDict:
    check_choice("MobileNetV3", size, SIZES)
    config = default_config()

    # Model
    config.model.name = f"mobilenet_v3_{size}_torch"

    # Data
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 224
    config.dataset.crop_pct = 0.875
    config.dataset.interpolation = "bilinear"

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True
    config.augment.policy = "autoaugment_imagenet_torchvision"
    config.augment.random_erasing = 0.2
    config.augment.erasing_form = "torchvision"

    # Optimiser
    config.batch_size = 1024
    config.optimizer.name = "rmsprop_torch"
    config.optimizer.learning_rate = 0.064
    config.optimizer.base_batch_size = 1024
    config.optimizer.momentum = 0.9
    config.optimizer.decay = 0.9
    config.optimizer.epsilon = 0.0316
    config.optimizer.weight_decay = 1e-5
    config.optimizer.decay_norm_and_bias = True

    # Schedule
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 0
    config.schedule.decay_rate = 0.973
    config.schedule.decay_epochs = 2
    config.schedule.staircase = True

    # Length
    config.num_epochs = 600
    return config
