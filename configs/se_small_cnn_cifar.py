"""Small CNN with SE blocks on CIFAR-10 or CIFAR-100.

The argument is the number of classes, 10 (the default) or 100: configs/se_small_cnn_cifar.py:100.
small_cnn_cifar.py is the same run without SE blocks.

The network and the recipe are from Keras' example (Keras 2, examples/cifar10_cnn.py): RMSprop at
1e-4 with batches of 32 for 100 epochs, and images shifted by up to a tenth and flipped.
Two things differ. Keras lowers the rate a little at each step (its decay of 1e-6), by 14% in all;
here it is constant. Keras adds its epsilon of 1e-7 to the root of the mean square; here the square
of that, 1e-14, is added inside the root.

SENet_Keras (github.com/RayXie29/SENet_Keras) tests an SE block in a small CNN, but does not say how
it was trained.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice


def get_config(classes: str = "10", *, se: bool = True) -> ConfigDict:
    check_choice("CIFAR data set", classes, ("10", "100"))
    config = default_config()

    # Model
    config.model.name = "se_small_cnn" if se else "small_cnn"

    # Data
    config.dataset.name = f"cifar{classes}"

    # Augmentation
    config.augment.crop_padding = 3  # of 32 pixels
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 32
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.momentum = 0.0
    config.optimizer.decay = 0.0  # 0 stands for RMSprop's usual 0.9, which Keras uses as well
    config.optimizer.epsilon = 1e-14
    config.optimizer.weight_decay = 0.0

    # Schedule
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 0

    # Length
    config.num_epochs = 100
    return config
