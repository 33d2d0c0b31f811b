"""Object detection: Faster R-CNN with a feature pyramid, over the networks of this package."""

from se_flax.detection.boxes import rescale
from se_flax.detection.create import create_detector, list_detectors
from se_flax.detection.faster_rcnn import Batch, FasterRCNN, detect, losses, trainable
from se_flax.detection.heads import Detections
from se_flax.detection.loaded import (
    LoadedDetector,
    Objects,
    find_objects,
    load_run,
    load_weights,
)
from se_flax.detection.matching import Truth
from se_flax.detection.preparation import Prepared, prepare
from se_flax.detection.trunk import with_trunk

__all__ = [
    "Batch",
    "Detections",
    "FasterRCNN",
    "LoadedDetector",
    "Objects",
    "Prepared",
    "Truth",
    "create_detector",
    "detect",
    "find_objects",
    "list_detectors",
    "load_run",
    "load_weights",
    "losses",
    "prepare",
    "rescale",
    "trainable",
    "with_trunk",
]
