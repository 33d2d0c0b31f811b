"""Evaluates published weights of a detector on images with annotations in COCO's format."""

import os
import pathlib
from typing import Any

import jax
from tqdm import tqdm

from se_flax.detection.average_precision import (
    average_precision,
    check_pycocotools,
    in_percent,
    results_of,
    write_results,
)
from se_flax.detection.batches import EvalFeed
from se_flax.detection.coco import read_split
from se_flax.detection.loaded import load_weights
from se_flax.detection.step import make_eval_step
from se_flax.errors import UserError
from se_flax.parallel import pmap_eval, replicate

# torchvision's detectors have a class for each number up to 90, and the background.
_NUMBERED = 91


def evaluate_weights(
    name: str,
    source: str | pathlib.Path,
    directory: str | os.PathLike[str],
    batch_size: int = 2,
    detections: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Evaluates published weights on the validation images of a folder.

    Args:
        name: of the detector.
        source: a `source` for `load_pretrained`.
        directory: see `se_flax.detection.coco.read_split`. If the weights have 91 classes, as those
            of torchvision for COCO, their numbers are the ids of the folder's categories.
        batch_size: total batch size, over all devices; rounded up to a multiple of their number.
        detections: file to which the detections are written, as JSON in COCO's format of results.

    Returns:
        The metrics of `average_precision` in percent, and the number of `images`.

    Raises:
        UserError: if pycocotools is missing, the weights or the folder cannot be read, or they have
            different numbers of classes.
    """
    check_pycocotools()
    loaded = load_weights(name, source)
    by_id = len(loaded.classes) + 1 == _NUMBERED
    images = read_split(directory, "val", by_id)
    count = len(images.categories.names)
    if count > len(loaded.classes) or (not by_id and count < len(loaded.classes)):
        raise UserError(
            f"the weights in {source} have {len(loaded.classes)} classes, and the images in "
            f"{directory} {count}; give images with the classes of the weights"
        )
    step = make_eval_step(loaded.network, loaded.mean, loaded.std)
    evaluate = pmap_eval(lambda variables, shared, own: step(variables, own))
    variables = replicate(loaded.variables)
    feed = EvalFeed(images, loaded.sizes, batch_size)
    results = []
    for inputs in tqdm(feed, name, leave=False, disable=None):
        (found,) = jax.device_get(evaluate(variables, *inputs)).batches
        known = found.detections.labels <= count  # of a category that the folder has
        valid = found.detections.valid & known
        results += results_of(
            images, found._replace(detections=found.detections._replace(valid=valid))
        )
    if detections is not None:
        write_results(results, detections)
    values = average_precision(results, images.annotations, images.categories)
    return {"images": len(images), **in_percent(values)}
