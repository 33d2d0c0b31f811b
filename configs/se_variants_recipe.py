"""The recipes of "Variations of Squeeze and Excitation networks" (arXiv:2304.06502).

The three-layer CNN (section 2): CIFAR-10, Adadelta at 1.0 times 0.7 after each epoch, batches of
64, 50 epochs. No augmentation and no weight decay are told of, and there are none.

ResNet-18 (section 4.1): CIFAR-10, CIFAR-100 and SVHN, batches of 32, images normalised by mean and
standard deviation. The rest is not told: here it is the three-layer CNN's. For CIFAR-100 the paper
enlarges images to 224 pixels, cropped at random and mirrored; here they stay at 32 pixels, at a
fiftieth of the cost, and are padded by 4, cropped at random and mirrored.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.layers.squeeze_excite import VARIANTS

PLAIN = "default"  # the paper's word for the network without a block
DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "svhn": "svhn_cropped"}


def se_variants_recipe(network: str, variant: str, dataset: str = "cifar10") -> ConfigDict:
    """Returns the config of a network with a variant of the SE block.

    Args:
        network: "cnn3" or "resnet18".
        variant: "default" for none, or one of `VARIANTS`.
        dataset: "cifar10", "cifar100" or "svhn".
    """
    for value, known in ((variant, (PLAIN, *VARIANTS)), (dataset, DATASETS)):
        if value not in known:
            raise ValueError(f'there is no "{value}"; known are {", ".join(known)}')
    config = default_config()
    config.model.name = network if variant == PLAIN else f"se_{network}"
    if variant != PLAIN:
        config.model.overrides.variant = variant
    config.dataset.name = DATASETS[dataset]
    config.augment.crop_padding = 4 if dataset == "cifar100" else 0
    config.augment.horizontal_flip = dataset == "cifar100"
    config.batch_size = 64 if network == "cnn3" else 32
    config.num_epochs = 50
    config.optimizer.name = "adadelta"
    config.optimizer.learning_rate = 1.0
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "exponential"
    config.schedule.decay_rate = 0.7
    config.schedule.decay_epochs = 1.0
    config.schedule.staircase = True
    config.schedule.warmup_epochs = 0
    return config
