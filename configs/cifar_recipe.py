"""The published recipe for residual networks on CIFAR, shared by the configs of this folder.

He et al. (arXiv:1512.03385, section 4.2), which Hu et al. (arXiv:1709.01507, section 5.1) take
over for their SE networks: SGD with momentum 0.9, batch 128, learning rate 0.1 divided by 10 at
half and at three quarters of the training, images padded by 4 zeros, cropped and mirrored at
random. Here 200 epochs rather than 64,000 steps (164 epochs of 50,000 images), the length that
later work settled on; Nesterov momentum and normalisation by each channel's mean and standard
deviation as in Facebook's published code (facebook/fb.resnet.torch), where the paper subtracts
the mean of each pixel.

What makes the very deep ones converge, with SE blocks and without:

- The first epoch is a warm-up from 0.01. At 0.1 from the first step
  on, the 110-layer network stays at chance for several epochs (He et al., section 4.2).
- From 110 layers on, the last batch norm of each residual branch begins with scale 0, so that
  each of the 54 units begins as an identity. (At 20 layers it only slows the first epochs down.)
- Batch norm, and with it the gates, is kept out of weight decay: decayed scales shrink the
  branches, and the gates that follow them, towards zero.
- The mean in the SE block and the statistics of batch norm are computed in float32 even where
  the rest is bfloat16.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config

DEPTHS = ("20", "32", "44", "56", "110", "164")


def cifar_recipe(prefix: str, depth: str, dataset: str, weight_decay: float) -> ConfigDict:
    """Returns the config of a CIFAR ResNet.

    Args:
        prefix: "" or "se_".
        depth: one of `DEPTHS`.
        dataset: "cifar10" or "cifar100".
        weight_decay: coefficient of half the squared norm of the kernels.
    """
    if depth not in DEPTHS:
        raise ValueError(f'there is no CIFAR ResNet of depth "{depth}"; known are {DEPTHS}')
    config = default_config()
    config.model.name = f"{prefix}resnet{depth}_cifar"
    if prefix:
        config.model.overrides.reduction = 16
    config.model.overrides.zero_init = int(depth) >= 110
    config.dataset.name = dataset
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True

    config.batch_size = 128
    config.num_epochs = 200
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = weight_decay
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 1
    config.schedule.warmup_factor = 0.1
    config.schedule.milestones = (100, 150)
    config.schedule.gamma = 0.1
    return config
