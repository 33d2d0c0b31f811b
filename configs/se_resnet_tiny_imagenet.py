"""SE-ResNet on Tiny ImageNet; the argument is the depth: configs/se_resnet_tiny_imagenet.py:34.

The depth is 18 (the default), 34 or 50. resnet_tiny_imagenet.py is the same run without SE blocks.

The SE paper does not use this data set, and there is no usual recipe for it. The networks are those
for ImageNet. The other choices are this project's:

- The stem is one 3x3 convolution, as in networks for CIFAR, in place of a 7x7 convolution of stride
  2 and a pooling. The last stage then sees 8x8 positions, about as many as the 7x7 of ImageNet's
  224x224 pixels; with the ImageNet stem it would see 2x2. A ResNet-18 takes 2.2 billion
  multiply-adds per image, about as many as the 1.8 billion at 224x224; with the ImageNet stem it
  would take 0.15 billion. Reproductions in courses and student projects use the ImageNet networks
  unchanged, at a fifteenth of the cost: `--config.model.overrides.stem=imagenet`.
- The optimiser is SGD with Nesterov momentum 0.9, batches of 256 and learning rate 0.1, as in He
  et al. (arXiv:1512.03385, section 3.4) for this batch. The rate scales with the batch.
- The run has 90 epochs. The rate rises for the first five (Goyal et al., arXiv:1706.02677) and then
  falls to 0 along half a cosine.
- Weight decay is 5e-4, as for CIFAR-100, which has as many images per class.
- Random crops cover at least 25% of the area, not 8%: at least 32x32 of the 64x64 pixels.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

DEPTHS = ("18", "34", "50")


def get_config(depth: str = "18", *, se: bool = True) -> ConfigDict:
    check_choice("ResNet of depth", depth, DEPTHS)
    config = default_config()

    # Model
    config.model.name = f"se_resnet{depth}" if se else f"resnet{depth}"
    config.model.overrides.stem = "cifar"

    # Data
    config.dataset.name = "tiny_imagenet"
    config.dataset.image_size = 64
    config.dataset.crop_pct = 1.0  # evaluation sees the whole image

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.25, 1.0)
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 256
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5
    config.schedule.warmup_factor = 0.1

    # Length
    config.num_epochs = 90
    return config
