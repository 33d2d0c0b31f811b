"""The recipe of the scale `budget`: ResNet-20 on CIFAR-10 for 10 epochs.

`BATCH_SIZE` is that of the paper's recipe, and `WEIGHT_DECAY` a usual value for short schedules.
`LEARNING_RATE` was chosen for the plain network alone, by its top-1 accuracy on held-out images in
runs of 10 epochs with `validation_fraction` 0.1 and seed 100: 87.34% with 0.2, 85.90% with 0.1.
All three are the same for every cell, so no SE block is tuned.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import se_resnet_cifar10

BATCH_SIZE = 128
LEARNING_RATE = 0.2
WEIGHT_DECAY = 5e-4

EPOCHS = 10
WARMUP_EPOCHS = 1

LIMITS = (
    "It shows only what SE changes in a short training: at the end of a long schedule, the "
    "differences between blocks may be others. Differences of less than half a percent need more "
    "than three seeds. In stages of 16, 32 and 64 channels, a reduction ratio of 16 leaves "
    "bottlenecks of only 1, 2 and 4 channels."
)
DESCRIPTION = (
    f"ResNet-20 on CIFAR-10, all 50,000 training images, for {EPOCHS} epochs instead of 200. The "
    f"schedule is made for this length: the learning rate rises for {WARMUP_EPOCHS} epoch and then "
    "falls to 0 along half a cosine. All networks have the same recipe: batches of "
    f"{BATCH_SIZE}, weight decay {WEIGHT_DECAY:g} and learning rate {LEARNING_RATE:g}, which was "
    f"chosen out of 0.1 and 0.2 for the plain network, with one seed, on held-out images. {LIMITS}"
)

# Left out of a config, so that the same network in two studies has the same config.
DEFAULTS = {
    "se_placement": "standard",
    "squeeze": "avg",
    "gate": "sigmoid",
    "variant": "standard",
}


def resnet20_config(se: bool, **overrides: Any) -> ConfigDict:
    """Returns the config of ResNet-20 at this scale.

    Args:
        se: whether the network has SE blocks.
        **overrides: fields of the network and its blocks; those with their default value are left
            out.
    """
    config = se_resnet_cifar10.get_config("20", se=se)
    config.model.overrides.update(
        {name: value for name, value in overrides.items() if value != DEFAULTS.get(name)}
    )
    config.batch_size = BATCH_SIZE
    config.optimizer.learning_rate = LEARNING_RATE
    config.optimizer.weight_decay = WEIGHT_DECAY
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = WARMUP_EPOCHS
    config.num_epochs = EPOCHS
    return config
