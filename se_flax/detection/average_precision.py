"""Average precision of detections by COCO's rules, computed by pycocotools."""

import contextlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from se_flax.detection.annotations import AnnotatedImages, Annotations, Categories
from se_flax.detection.heads import Detections
from se_flax.errors import UserError
from se_flax.runtime.paths import to_path
from se_flax.runtime.storage import write_text

# Names of the first six numbers of pycocotools' summary.
METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class FoundInBatch(NamedTuple):
    """What was detected in the images of a batch.

    Attributes:
        places, sizes, mask: see `HostBatch`.
        detections: in pixels of the resized images.
    """

    places: Int[Array | np.ndarray, " b"]
    sizes: Float[Array | np.ndarray, "b 2"]
    mask: Bool[Array | np.ndarray, " b"]
    detections: Detections


def results_of(source: AnnotatedImages, found: FoundInBatch) -> list[dict[str, Any]]:
    """Returns detections as COCO's list of results: in pixels of the images before resizing.

    Args:
        source: the images.
        found: what was detected in a batch of them, on the host. Masked images are passed over.

    Returns:
        For each detection the id of its image and category, its `bbox` (left, top, width, height)
        and its score.
    """
    boxes, scores, labels, valid = map(np.asarray, found.detections)
    places = np.asarray(found.places)
    originals = source.annotations.sizes[places].astype(np.float32)
    ratios = np.tile((originals / found.sizes)[:, None, ::-1], 2)
    boxes = boxes * ratios
    rectangles = np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
    results = []
    for i, k in np.argwhere(valid & np.asarray(found.mask)[:, None]).tolist():
        results.append(
            {
                "image_id": source.annotations.image_ids[places[i]],
                "category_id": source.categories.ids[labels[i, k] - 1],
                "bbox": rectangles[i, k].tolist(),
                "score": float(scores[i, k]),
            }
        )
    return results


def write_results(results: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Writes results of `results_of` as JSON, which COCO's evaluation server and tools read.

    Args:
        results: the results.
        path: of the file, on a disk or in a bucket.

    Raises:
        StorageError: if it cannot be written.
    """
    write_text(to_path(path), json.dumps(list(results)))


def average_precision(
    results: Iterable[Mapping[str, Any]], annotations: Annotations, categories: Categories
) -> dict[str, float]:
    """Returns the average precision of detections, as published for COCO.

    `AP` is the mean over ten thresholds of the IoU, 0.5 to 0.95, and over all classes; `AP50` and
    `AP75` are those at one threshold, and `AP_small`, `AP_medium` and `AP_large` those of objects
    of up to 32^2, up to 96^2 and more square pixels (https://cocodataset.org/#detection-eval).
    Detections of crowds count neither as right nor as wrong, and of an image's detections of a
    class, the 100 with the highest scores count.

    Args:
        results: see `results_of`.
        annotations: of all images that were evaluated.
        categories: their classes.

    Returns:
        A value from 0 to 1 for each of `METRICS`; not a number if there are no such objects.

    Raises:
        UserError: if pycocotools is not installed, or a result is of an unknown image.
    """
    check_pycocotools()
    from pycocotools.cocoeval import COCOeval

    known = set(annotations.image_ids)
    results = [dict(result) for result in results]
    if unknown := [each["image_id"] for each in results if each["image_id"] not in known]:
        raise UserError(
            f"there is a result for image {unknown[0]}, which is not among the {len(known)} "
            "evaluated images; give the annotations of the images in which objects were detected"
        )
    truth = annotations.in_coco_format(categories)
    for number, result in enumerate(results, 1):
        _, _, width, height = result["bbox"]
        result.update(id=number, area=width * height, iscrowd=0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_indexed(truth), _indexed({**truth, "annotations": results}), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.where(evaluation.stats < 0, np.nan, evaluation.stats)  # -1: no such objects
    return {name: float(value) for name, value in zip(METRICS, values, strict=False)}


def in_percent(values: Mapping[str, float]) -> dict[str, float]:
    """Returns values of `average_precision` in percent, without those that are not a number."""
    return {name: 100 * value for name, value in values.items() if not np.isnan(value)}


def check_pycocotools() -> None:
    """Raises `UserError` unless pycocotools is installed; call it before long computations."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            'average precision needs the package pycocotools; install it with pip install "se_flax'
            '[detection]" (in a clone: pip install -r requirements-detection.txt)'
        ) from error


def _indexed(content: dict[str, Any]) -> Any:
    """Returns pycocotools' data set with a content."""
    from pycocotools.coco import COCO

    result = COCO()
    result.dataset = content
    result.createIndex()
    return result
