"""A small Faster R-CNN with SE blocks on generated images of shapes: no download, minutes on a CPU.

    python -m se_flax.main --config=configs/faster_rcnn_quickstart.py

The images have 128x128 pixels and show circles, squares, triangles, stars and crosses
(`se_flax.detection.shapes`). Everything is trained from random weights, with Adam.
"""

from ml_collections import ConfigDict

from se_flax.config import default_config


def get_config(*, se: bool = True) -> ConfigDict:
    config = default_config()

    # Model: a trunk with one unit a stage, and a few boxes
    config.model.name = f"fasterrcnn_{'se_' if se else ''}resnet18_fpn"
    config.model.overrides.stage_sizes = (1, 1, 1, 1)
    config.model.overrides.widths = (32, 64, 96, 128)
    config.model.overrides.frozen = ()
    config.model.overrides.pyramid_width = 64
    config.model.overrides.head_width = 256
    config.model.overrides.anchors_drawn = 64
    config.model.overrides.regions_drawn = 64
    config.model.overrides.proposals_before = 200
    config.model.overrides.proposals_after = 100
    config.model.overrides.train_proposals_before = 200
    config.model.overrides.train_proposals_after = 100
    config.model.overrides.detections = 20

    # Data
    config.dataset.name = "shapes"
    config.dataset.short_side = 128
    config.dataset.long_side = 128

    # Augmentation
    config.augment.crop_padding = 0
    config.augment.horizontal_flip = True

    # Optimiser
    config.batch_size = 8
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0

    # Schedule
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 0.5
    config.schedule.warmup_factor = 0.1

    # Length
    config.num_epochs = 4
    config.eval_batch_size = 20
    return config
