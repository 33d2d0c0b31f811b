"""SE-ResNet on CIFAR-100; the argument is the depth: configs/se_resnet_cifar100.py:56.

The depth is 20, 32, 44, 56, 110 (the default) or 164. resnet_cifar100.py is the same run without SE
blocks.

The recipe is from He et al. (arXiv:1512.03385, section 4.2): SGD with momentum 0.9, batches of 128,
learning rate 0.1 divided by 10 at half and at three quarters of the run, and images padded by 4
zeros, cropped and flipped at random. Hu et al. (arXiv:1709.01507, section 5.1) train each network
by the recipe of its own paper, with SE blocks as without. Three things differ:

- The run has 200 epochs, the length that later work settled on. He et al. train for 64,000 steps,
  which are 164 epochs of 50,000 images.
- Momentum is Nesterov's, and images are normalised by the mean and standard deviation of each
  channel, as in Facebook's published code (facebook/fb.resnet.torch). The paper subtracts the mean
  of each pixel.
- Weight decay is 5e-4, which Zagoruyko and Komodakis (arXiv:1605.07146) use for CIFAR-100. There
  are 500 images per class, not 5,000, and these networks overfit at the 1e-4 of CIFAR-10.

Four choices make the very deep networks converge, with SE blocks and without:

- The first epoch is a warm-up from 0.01. At 0.1 from the first step on, the 110-layer network stays
  at chance for several epochs (He et al., section 4.2).
- From 110 layers on, the last batch norm of each residual branch starts with scale 0, so that each
  of the 54 units starts as an identity. At 20 layers this only slows the first epochs down.
- Weight decay leaves out batch norm and biases. Decayed scales shrink the branches, and the gates
  that follow them, towards zero.
- The mean in the SE block and the statistics of batch norm are computed in float32, even where the
  rest is bfloat16.

experiments/backbones.py sets `preactivation`, to train pre-activation ResNets (arXiv:1603.05027)
with this recipe.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

DEPTHS = ("20", "32", "44", "56", "110", "164")


def get_config(depth: str = "110", *, se: bool = True, preactivation: bool = False) -> ConfigDict:
    check_choice("CIFAR ResNet of depth", depth, DEPTHS)
    config = default_config()

    # Model
    network = f"preact_resnet{depth}_cifar" if preactivation else f"resnet{depth}_cifar"
    config.model.name = f"se_{network}" if se else network
    if se:
        config.model.overrides.reduction = 16
    if not preactivation:  # a pre-activation unit does not end in a batch norm
        config.model.overrides.zero_init = int(depth) >= 110

    # Data
    config.dataset.name = "cifar100"

    # Augmentation
    config.augment.crop_padding = 4
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 128
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 1
    config.schedule.warmup_factor = 0.1
    config.schedule.milestones = (100, 150)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 200
    return config
