"""Published weights fine-tuned on images of another data set.

The argument is the network: configs/finetune.py:se_resnet50_caffe (the default). Its weights are
the first that `python -m se_flax.pretrained` lists for it, or `--config.init_from=FILE`. A network
without listed weights starts from random ones, unless `--config.init_from` is set.

The images are in `--config.dataset.image_dir=DIR`, a folder with train/<class>/*.jpg and
val/<class>/*.jpg, or in `--config.dataset.name=NAME`, any TFDS data set with images and labels.
They are resized, cropped and normalised as is stated with the weights, unless config.dataset says
otherwise.

The recipe is from Kornblith et al. (arXiv:1805.08974, section A.5), and Tan and Le follow it
(arXiv:1905.11946, section 5.3): Nesterov momentum 0.9, batches of 256, and a cosine from the first
step on. Kornblith et al. search the learning rate and the weight decay for each data set on
held-out images; 0.01 and 1e-4 are in the middle of their ranges. Search yours with
`--config.validation_fraction=0.1 --config.optimizer.learning_rate=...`. They train for 20,000
steps; here `--config.num_epochs` sets the length.

Two other ways to fine-tune: `--config.freeze_backbone=True` trains only a new classifier, and
`--config.optimizer.lr_multipliers="(('classifier/*', 1.0), ('*', 0.1))"` trains the backbone at a
tenth of the rate.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.models import model_info
from se_flax.pretrained.catalogue import find_weights


def get_config(network: str = "se_resnet50_caffe") -> ConfigDict:
    config = default_config()
    weights = find_weights(network)

    # Model
    config.model.name = model_info(network).name
    if weights:
        config.init_from = weights.source

    # Data
    config.dataset.name = "imagenette"

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 256
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 0

    # Length
    config.num_epochs = 30
    return config
