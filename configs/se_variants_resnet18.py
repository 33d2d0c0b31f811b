"""ResNet-18 with a variant of the SE block on CIFAR-10, CIFAR-100 or SVHN.

The argument is the variant and the data set: configs/se_variants_resnet18.py:bump,cifar100. The
variants are "standard" (the SE block), "slow_squeeze", "slow_excite", "slow_squeeze_slow_excite"
and "bump"; "default" is the paper's name for the network without a block. The data sets are
"cifar10", "cifar100" and "svhn". Without an argument, they are "standard" and "cifar10".

The runs are from "Variations of Squeeze and Excitation networks" (arXiv:2304.06502,
section 4.1): batches of 32, and images normalised by mean and standard deviation. The paper does
not give the rest of the recipe. The one of its three-layer CNN is used here (se_variants_cnn3.py):
Adadelta at learning rate 1.0, multiplied by 0.7 after each epoch, for 50 epochs, without weight
decay.

- For CIFAR-100 the paper enlarges images to 224 pixels and crops and flips them at random. Here
  they stay at 32 pixels, padded by 4, cropped and flipped at random. The images of the other two
  data sets are not augmented.
- The paper does not say which stem its ResNet-18 has at 32 pixels. Here it is one 3x3 convolution,
  as in networks for CIFAR, and the last stage sees 4x4 positions. With the stem for ImageNet, a 7x7
  convolution of stride 2 and a pooling, it would see one position, and the SE blocks there would
  have nothing to squeeze.

The network takes 0.56 billion multiply-adds per image. With the ImageNet stem it would take 1.8
billion at 224 pixels and 0.04 billion at 32. The paper's 73% on CIFAR-10 without SE suggests that
it used the ImageNet stem at 32 pixels. So expect higher accuracy here, and compare what each
variant changes rather than the accuracy itself.
`--config.model.overrides.stem=imagenet` gives the other network.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice
from se_flax.layers.squeeze_excite import VARIANTS

DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "svhn": "svhn_cropped"}


def get_config(variant_and_dataset: str = "standard,cifar10") -> ConfigDict:
    variant, _, dataset = variant_and_dataset.partition(",")
    dataset = dataset or "cifar10"
    check_choice("variant of the SE block", variant, ("default", *VARIANTS))
    check_choice("data set", dataset, DATASETS)
    config = default_config()

    # Model
    if variant == "default":
        config.model.name = "resnet18"
    else:
        config.model.name = "se_resnet18"
        config.model.overrides.variant = variant
    config.model.overrides.stem = "cifar"

    # Data
    config.dataset.name = DATASETS[dataset]

    # Augmentation
    config.augment.crop_padding = 4 if dataset == "cifar100" else 0
    config.augment.horizontal_flip = dataset == "cifar100"

    # Optimiser
    config.batch_size = 32
    config.optimizer.name = "adadelta"
    config.optimizer.learning_rate = 1.0
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0

    # Schedule
    config.schedule.name = "exponential"
    config.schedule.warmup_epochs = 0
    config.schedule.decay_rate = 0.7
    config.schedule.decay_epochs = 1.0
    config.schedule.staircase = True

    # Length
    config.num_epochs = 50
    return config
