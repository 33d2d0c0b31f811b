"""A trained detector, opened without the data it was trained on, and what it finds."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from se_flax.detection.classes import coco_names
from se_flax.detection.create import create_detector, normalisation
from se_flax.detection.faster_rcnn import FasterRCNN, detect
from se_flax.detection.heads import Detections
from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError, opening_a_run


@dataclasses.dataclass(frozen=True)
class LoadedDetector:
    """A trained detector, and what is needed to use it.

    Attributes:
        network: the detector.
        variables: its variables; of a run with `config.ema_decay`, their moving average.
        classes: names of the classes, from class 1.
        sizes: to which images are resized and padded.
        mean, std: by which they are normalised, on a scale of 0 to 1.
        step: step of the checkpoint; 0 for published weights.
    """

    network: FasterRCNN
    variables: dict[str, Any]
    classes: tuple[str, ...]
    sizes: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    step: int = 0

    @functools.cached_property
    def compiled(self) -> Callable[..., Detections]:
        """A compiled function of images and sizes, as in `HostBatch`, that detects objects.

        Raises:
            UserError: if a variable is not finite.
        """
        from se_flax.detection.batches import normalized

        if not all(np.isfinite(each).all() for each in jax.tree.leaves(self.variables)):
            raise UserError(
                "the detector's variables are not finite; use another checkpoint or other weights"
            )

        @jax.jit
        def compute(variables, images, sizes):
            images = normalized(images, sizes, self.mean, self.std)
            return detect(self.network, variables, images, sizes)

        return functools.partial(compute, jax.device_put(self.variables))


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects that were found in an image, the most probable first.

    Attributes:
        boxes: left, top, right and bottom of each, in pixels of the image.
        labels: class of each, from 1.
        scores: probability of each.
        classes: name of the class of each.
    """

    boxes: Float[np.ndarray, "k 4"]
    labels: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    classes: tuple[str, ...]

    def above(self, threshold: float) -> "Objects":
        """Returns those with at least this score."""
        count = int(np.sum(self.scores >= threshold))  # the scores fall
        first = slice(count)
        return Objects(
            self.boxes[first], self.labels[first], self.scores[first], self.classes[first]
        )


def load_run(
    workdir: str | os.PathLike[str], step: str | int = "best", seed: int | None = None
) -> LoadedDetector:
    """Opens a trained detector; the data that it was trained on is not needed.

    Args:
        workdir: folder of the run, on a disk or in a bucket ("gs://BUCKET/FOLDER").
        step: "best", "latest" or the step of a checkpoint.
        seed: seed of the detector, if the run has several; by default the first.

    Raises:
        UserError: if the run, checkpoint or seed does not exist, or the run has no detector.
    """
    with opening_a_run():
        from se_flax.restored import restore_detector
        from se_flax.runtime.paths import to_path
    run = restore_detector(to_path(workdir), step)
    place, dataset = run.place_of(seed), run.program.dataset
    return LoadedDetector(
        network=run.model,
        variables=jax.device_get(run.variables()[place]),
        classes=tuple(dataset.class_names),
        sizes=dataset.sizes,
        mean=dataset.mean,
        std=dataset.std,
        step=run.steps[place],
    )


def load_weights(
    name: str, source: str | pathlib.Path, classes: Sequence[str] | None = None
) -> LoadedDetector:
    """Opens a detector with published weights.

    Args:
        name: of the detector, see `create_detector`.
        source: a `source` for `se_flax.load_pretrained`.
        classes: names of the classes, from class 1. By default, those of COCO if the weights have
            91 classes, as torchvision's have, and otherwise numbers.

    Raises:
        UserError: if the weights cannot be read, or have another number of classes.
    """
    from se_flax.pretrained.load import load_pretrained

    variables = load_pretrained(name, source)
    count = len(variables["params"]["box_head"]["classifier"]["bias"])
    if classes is None:
        classes = coco_names() if count == 91 else [f"class {k}" for k in range(1, count)]
    if len(classes) != count - 1:
        raise UserError(
            f"{len(classes)} classes are named, but the weights in {source} have {count - 1}; name "
            "each of them, in their order"
        )
    prepared = normalisation(name)
    network = create_detector(name, count)
    return LoadedDetector(network, variables, tuple(classes), Sizes(), prepared.mean, prepared.std)


def find_objects(loaded: LoadedDetector, images: Iterable[np.ndarray]) -> Iterator[Objects]:
    """Yields the objects in each image, one image at a time.

        for found in find_objects(load_run("runs/faster_rcnn_quickstart"), [image]):
            print(found.classes, found.scores, found.boxes)

    Args:
        loaded: the detector.
        images: red, green and blue, from 0 to 255; heights and widths can differ. A program is
            compiled for each of `loaded.sizes.padded` that images need, once for a `loaded`.

    Raises:
        UserError: if an image has another type or shape, or the detector is not finite.
    """
    from se_flax.detection.batches import prepare

    for image in images:
        if not (image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3):
            raise UserError(
                "an image must be an array of uint8 with shape [h, w, 3], not "
                f"{image.dtype} {list(image.shape)}"
            )
        original = np.array([image.shape[:2]])
        size, group = loaded.sizes.resized(original)[0], int(loaded.sizes.groups(original)[0])
        padded = np.zeros((*loaded.sizes.padded[group], 3), np.uint8)
        prepare(image, np.zeros((0, 4), np.float32), size, False, padded)
        found = loaded.compiled(padded[None], size[None].astype(np.float32))
        boxes, scores, labels, valid = (np.asarray(each)[0] for each in found)
        down, across = (original[0] / size).tolist()
        ratios = np.array([across, down] * 2, np.float32)
        names = tuple(loaded.classes[k - 1] for k in labels[valid].tolist())
        yield Objects(boxes[valid] * ratios, labels[valid], scores[valid], names)
