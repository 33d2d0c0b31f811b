"""Detection of objects, as a task that a run's networks learn."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from se_flax.config import build_model
from se_flax.data.dataset import Inputs
from se_flax.data.grid import first_images
from se_flax.detection.annotations import read_image
from se_flax.detection.average_precision import average_precision, in_percent, results_of
from se_flax.detection.boxes import rescale
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.draw import draw_detections, side_by_side
from se_flax.detection.faster_rcnn import trainable
from se_flax.detection.init_from import starting_variables
from se_flax.detection.step import DetectionMetrics, Found, make_eval_step, make_train_step
from se_flax.metrics import Sums
from se_flax.seeds import Evaluate, Step

_DRAWN = 6  # most images in a picture


@dataclasses.dataclass(frozen=True)
class Detection:
    """The detection of the objects in a data set's images (see `task.Task`).

    Attributes:
        dataset: the data set.
        metrics: the class of the training metrics.
    """

    dataset: DetectionDataset
    metrics: ClassVar[type[Sums]] = DetectionMetrics

    def model(self, config: ConfigDict) -> nn.Module:
        """See `Task`."""
        return build_model(config, self.dataset.num_classes)

    def trained(self, config: ConfigDict, model: nn.Module) -> Callable[[Any], Any]:
        """See `Task`."""
        return functools.partial(trainable, model)

    def make_step(self, config: ConfigDict, model: nn.Module) -> Callable[..., Step]:
        """See `Task`."""

        def make(optimizer):
            train_step = make_train_step(
                model,
                optimizer,
                self.dataset.mean,
                self.dataset.std,
                ema_decay=config.ema_decay,
                accumulate_steps=config.accumulate_steps,
            )
            return lambda state, images, own: train_step(state, own)

        return make

    def evaluate(self, config: ConfigDict, model: nn.Module) -> Evaluate:
        """See `Task`."""
        eval_step = make_eval_step(model, self.dataset.mean, self.dataset.std)
        return lambda variables, images, own: eval_step(variables, own)

    def published(self, config: ConfigDict) -> dict[str, Any]:
        """See `Task`."""
        overrides = config.model.overrides.to_dict()
        name, source = config.model.name, config.init_from
        return starting_variables(name, source, self.dataset.num_classes, overrides)

    def detections(self, total: Found, split: str) -> list[dict[str, Any]]:
        """Returns what was detected in a split, as COCO's list of results (see `results_of`)."""
        source = self.dataset.splits[split]
        found = []
        for batch in total.on_host().batches:
            found += results_of(source, batch)
        return found

    def results(self, total: Found, split: str) -> dict[str, float]:
        """Returns the average precision in percent (see `average_precision`).

        Sizes of objects that the split does not have are left out.
        """
        source = self.dataset.splits[split]
        found = self.detections(total, split)
        values = average_precision(found, source.annotations, source.categories)
        return in_percent(values)

    def draw_inputs(self, config: ConfigDict, inputs: Inputs, seed: int, step: int) -> Image.Image:
        """See `Task`; the images are drawn with their true boxes."""
        own = first_images(inputs[1], _DRAWN)
        drawn = []
        for image, (height, width), boxes, labels, valid in zip(
            *map(np.asarray, (own.images, own.sizes, own.boxes, own.labels, own.valid)), strict=True
        ):
            image = image[: int(height), : int(width)]
            names = self.dataset.class_names
            drawn.append(draw_detections(image, boxes[valid], labels[valid], None, names))
        return side_by_side(drawn)

    def draw_results(self, total: Found, split: str) -> Image.Image:
        """See `Task`; detections with a score of at least 0.5 are drawn."""
        source = self.dataset.splits[split]
        batch = jax.device_get(total.batches[0])
        drawn = []
        for i in np.flatnonzero(batch.mask)[:_DRAWN].tolist():
            place = int(batch.places[i])
            image = read_image(source, place)
            boxes, scores, labels, valid = (each[i] for each in batch.detections)
            boxes = np.asarray(
                rescale(boxes[None], batch.sizes[i : i + 1], np.float32([image.shape[:2]]))
            )[0]
            drawn.append(
                draw_detections(
                    image, boxes[valid], labels[valid], scores[valid], source.categories.names
                )
            )
        return side_by_side(drawn)
