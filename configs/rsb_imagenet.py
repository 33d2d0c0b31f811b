"""ResNet strikes back: procedures A2 and A3 on ImageNet, with SE-ResNet-50 or ResNet-50.

The arguments are the procedure, a2 (the default) or a3, and the network, se_resnet50 (the default)
or resnet50: configs/rsb_imagenet.py:a3,resnet50. A2 takes 300 epochs, A3 100 epochs at 160 pixels.

The recipe is from Wightman, Touvron and Jegou (arXiv:2110.00476, table 2). It gives the sizes in
training (224, or 160 for A3) and testing (224, of a crop of 0.95), the batch of 2048, LAMB with
learning rate 5e-3 (A2) or 8e-3 (A3) and weight decay 0.02, the cosine schedule after 5 epochs of
warm-up, binary cross entropy without label smoothing, random resized crops and flips, RandAugment
of strength 7 (A2) or 6 (A3) with standard deviation 0.5, mixup 0.1, CutMix 1.0, and, for A2 only,
stochastic depth 0.05 and repeated augmentation.

The rest follows the authors' code (github.com/huggingface/pytorch-image-models):

- RandAugment is that of "rand-m7-mstd0.5-inc1": see `se_flax.data.augment.rand_augment_timm`.
- Each batch is mixed by either mixup or CutMix, with equal probability; all its pairs have the same
  share and box.
- Repeated augmentation makes three copies of an image.
- The target of a class is 1 if its share of a mixed image is above 0.2, and otherwise 0. Published
  commands for A2, such as ML-Decoder's (github.com/Alibaba-MIIL/ML_Decoder), use this threshold.
- LAMB clips the gradient to a global norm of 1 (the table has no clipping), and leaves out norms
  and biases from weight decay and from its own scaling.
- The warm-up starts at 1e-4.
- The last batch norm of each residual branch starts with scale 0.

These things differ from that code. Its learning rate changes once an epoch, follows a cosine that
starts with the warm-up, and ends at 1e-6; here it changes with every step, the cosine starts at the
end of the warm-up, and ends at 0. Its warps interpolate, and fill with the mean colour; here they
take the nearest pixel, and fill with grey. It resizes training crops bicubically; here crops are
shrunk by averaging over pixels, and enlarged bilinearly. It draws how to mix on each device; here
that is drawn once for all. It trains in float16; `--config.dtype=bfloat16` comes closest to that.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice

PROCEDURES = ("a2", "a3")
NETWORKS = ("se_resnet50", "resnet50")


def get_config(argument: str = "a2") -> ConfigDict:
    procedure, _, network = argument.partition(",")
    check_choice("procedure", procedure, PROCEDURES)
    check_choice("network", network or NETWORKS[0], NETWORKS)
    is_a2 = procedure == "a2"
    config = default_config()

    # Model
    config.model.name = network or NETWORKS[0]
    config.model.overrides.zero_init = True
    config.model.overrides.stochastic_depth = 0.05 if is_a2 else 0.0

    # Data
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = 224
    config.dataset.train_size = 224 if is_a2 else 160
    config.dataset.crop_pct = 0.95
    config.dataset.interpolation = "bicubic"

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True
    config.augment.policy = "randaugment_timm"
    config.augment.num_ops = 2
    config.augment.magnitude = 7.0 if is_a2 else 6.0
    config.augment.magnitude_std = 0.5
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.augment.mix_by = "batch"
    config.augment.repeats = 3 if is_a2 else 1

    # Loss
    config.loss = "bce"
    config.target_threshold = 0.2
    config.label_smoothing = 0.0

    # Optimiser
    config.batch_size = 2048
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 5e-3 if is_a2 else 8e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.02
    config.optimizer.decay_norm_and_bias = False
    config.optimizer.clip_norm = 1.0

    # Schedule
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5
    config.schedule.warmup_factor = 1e-4 / config.optimizer.learning_rate

    # Length
    config.num_epochs = 300 if is_a2 else 100
    return config
