"""Published weights trained further on images of another data set.

The argument is the network: configs/finetune.py:se_resnet50_caffe (the default). Its weights are
the first that `python -m se_flax.pretrained` lists, or `--config.init_from=FILE`. The images are
those of `--config.dataset.image_dir=DIR`, a folder with train/<class>/*.jpg and
val/<class>/*.jpg, or of `--config.dataset.name=NAME`, any of TFDS with images and labels.

As Kornblith et al. (arXiv:1805.08974, section A.5) fine-tune, and Tan and Le (arXiv:1905.11946,
section 5.3) after them: Nesterov momentum 0.9, batch 256, a cosine from the first step on; the
former search learning rates and weight decay for each data set on held-out images, which
`--config.validation_fraction=0.1 --config.optimizer.learning_rate=...` is for, where 0.01 and 1e-4
are middle values of theirs. They train 20,000 steps; `--config.num_epochs` sets how many here.

A network of which none are listed begins with random ones, unless `--config.init_from` names some.
Other ways: `--config.freeze_body=True` trains a new classifier on the features as they are, and
`--config.optimizer.lr_multipliers="(('classifier/*', 1.0), ('*', 0.1))"` the body at a tenth of the
rate.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.models import model_info
from se_flax.pretrained.catalogue import find_weights


def get_config(network: str = "se_resnet50_caffe") -> ConfigDict:
    config = default_config()
    config.model.name = model_info(network).name
    weights = find_weights(network)
    if weights:  # and images as they are evaluated on
        config.init_from = weights.source
        config.dataset.image_size = weights.input_size
        config.dataset.crop_pct = weights.crop
        config.dataset.interpolation = weights.interpolation
    config.dataset.name = "imagenette"
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = True
    config.augment.crop_area = (0.08, 1.0)
    config.augment.horizontal_flip = True

    config.batch_size = 256
    config.num_epochs = 30
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 0
    return config
