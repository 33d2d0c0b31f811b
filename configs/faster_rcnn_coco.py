"""Faster R-CNN with a feature pyramid on COCO; the argument is the trunk.

    python -m se_flax.main --config=configs/faster_rcnn_coco.py:se_resnet50

The trunk is resnet50, se_resnet50 (the default), resnet101 or se_resnet101, as trained in Caffe.
With SE it starts from the weights that the authors released. Those without SE are no longer
offered by their authors: give a file with `--config.init_from=ResNet-50-model.caffemodel`.

The images are those of the TFDS data set coco/2017, or of a folder with images and annotations as
cocodataset.org offers them: `--config.dataset.coco=DIR`. The training images of 2017 are the 80k
training and 35k validation images of 2014 that the paper trains on, and its validation images are
the 5k of "minival".

Hu et al. (arXiv:1709.01507, section 5.3) train Faster R-CNN with the hyperparameters of Detectron
and its "2x" schedule. They do not say whether there is a feature pyramid. There is one here,
because their baselines (AP 38.0 and 39.9) are close to those of Detectron's model zoo with a
pyramid (37.9 and 39.8); without one, ResNet-50 has 36.5 there. The rest follows the model zoo, too:
batches of 16 images, learning rate 0.02 divided by 10 after 120,000 and 160,000 of 180,000
iterations, warm-up from a third over 500 iterations, weight decay 1e-4, horizontal flips, short
side 800 and long side at most 1333. An epoch has 7,329 iterations (117,266 images have boxes). What
differs:

- The length is a whole number of epochs: 25, or 183,225 iterations.
- The losses of boxes are those of torchvision (`se_flax.detection.losses`).
- Detectron does not train on anchors that cross the border of an image, counts the last pixel of a
  box as inside (widths are larger by 1), and keeps 2,000 proposals for all images of a GPU, where
  here 1,000 are kept for each image.
- In Detectron, biases have twice the learning rate and do not decay. Here they have the same
  learning rate, and do not decay.

Without internet, give the weights as a file: `--config.init_from=FILE`. The training takes days on
eight GPUs. The learning rate is for a batch of 16 and scales with `--config.batch_size`.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config
from se_flax.errors import check_choice
from se_flax.pretrained.catalogue import find_weights

TRUNKS = ("resnet50", "se_resnet50", "resnet101", "se_resnet101")
_ITERATIONS = 7329  # of an epoch


def get_config(trunk: str = "se_resnet50") -> ConfigDict:
    check_choice("trunk", trunk, TRUNKS)
    config = default_config()

    # Model
    config.model.name = f"fasterrcnn_{trunk}_caffe_fpn"
    config.model.overrides.train_proposals_after = 1000
    weights = find_weights(f"{trunk}_caffe")
    if weights:
        config.init_from = weights.source

    # Data
    config.dataset.name = "coco/2017"
    config.dataset.short_side = 800
    config.dataset.long_side = 1333

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 16
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.02
    config.optimizer.base_batch_size = 16
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norm_and_bias = False

    # Schedule
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 500 / _ITERATIONS
    config.schedule.warmup_factor = 1 / 3
    config.schedule.milestones = (120_000 / _ITERATIONS, 160_000 / _ITERATIONS)
    config.schedule.gamma = 0.1

    # Length
    config.num_epochs = 25
    config.eval_batch_size = 16
    return config
