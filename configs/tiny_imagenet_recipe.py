"""A recipe for residual networks on Tiny ImageNet, shared by the configs of this folder.

The SE paper does not use this data set, and no recipe for it is the usual one. These are the
ImageNet networks, with choices of this project:

- The stem is one 3x3 convolution, as of the networks for CIFAR, in place of a 7x7 convolution of
  stride 2 and a pooling. The last stage then sees 8x8 positions, about as many as the 7x7 of
  ImageNet's 224x224, not 2x2; and a ResNet-18 takes 2.2 billion multiply-adds for an image, about
  as many as the 1.8 billion at 224x224, not 0.15 billion. Reproductions in courses and student
  projects use the ImageNet networks unchanged, which are to be had, at a fifteenth of the cost, by
  `--config.model.overrides.stem=imagenet`.
- SGD with Nesterov momentum 0.9, batch 256, learning rate 0.1 (that of He et al.,
  arXiv:1512.03385, section 3.4, for this batch) for 90 epochs. It rises for the first five (Goyal
  et al., arXiv:1706.02677) and then falls to 0 along half a cosine. It scales with the batch.
- Weight decay is 5e-4, as for CIFAR-100, which has as many images a class.
- Crops of a random size have 25% of the area or more, not 8%: 32x32 of the 64x64 pixels.
"""

from ml_collections import ConfigDict

from configs.imagenet_recipe import check_argument
from se_flax.config import default_config


def tiny_imagenet_recipe(prefix: str, depth: str) -> ConfigDict:
    """Returns the config of a ResNet on Tiny ImageNet.

    Args:
        prefix: "" or "se_".
        depth: "18", "34" or "50".
    """
    check_argument(depth, ("18", "34", "50"))
    config = default_config()
    config.model.name = f"{prefix}resnet{depth}"
    config.model.overrides.stem = "cifar"
    config.dataset.name = "tiny_imagenet"
    config.dataset.image_size = 64
    config.dataset.crop_pct = 1.0  # all of an image
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.25, 1.0)
    config.augment.horizontal_flip = True

    config.batch_size = 256
    config.num_epochs = 90
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5
    config.schedule.warmup_factor = 0.1
    return config
