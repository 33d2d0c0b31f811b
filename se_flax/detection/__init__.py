"""Object detection: Faster R-CNN with a feature pyramid, over the networks of this package."""

from se_flax.detection.boxes import rescale
from se_flax.detection.create import create_detector, list_detectors
from se_flax.detection.faster_rcnn import Batch, FasterRCNN, detect, losses, trainable
from se_flax.detection.heads import Detections
from se_flax.detection.matching import Truth
from se_flax.detection.preparation import Prepared, prepare
from se_flax.detection.trunk import with_trunk

__all__ = [
    "Batch",
    "Detections",
    "FasterRCNN",
    "Prepared",
    "Truth",
    "create_detector",
    "detect",
    "list_detectors",
    "losses",
    "prepare",
    "rescale",
    "trainable",
    "with_trunk",
]
