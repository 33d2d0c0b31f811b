"""The data set of a detector's run, selected by its config."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from se_flax.data.sources import evaluation_split
from se_flax.detection.annotations import AnnotatedImages, Annotations, Categories
from se_flax.detection.average_precision import check_pycocotools
from se_flax.detection.coco import CocoImages, read_coco, read_split
from se_flax.detection.create import normalisation
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.shapes import GENERATED, shapes
from se_flax.detection.sizes import Sizes
from se_flax.detection.tfds_images import TfdsBoxes
from se_flax.errors import UserError
from se_flax.runtime.paths import resolved, to_path


def detection_dataset_of(config: ConfigDict) -> DetectionDataset:
    """Returns the data set of a detector's run; downloads and prepares it first if necessary.

    It is the folder `config.dataset.coco` if that is set, the generated images of
    `se_flax.detection.shapes`, or the TFDS data set `config.dataset.name`, evaluated on its split
    `validation` or, if it has none, `test`.

    Raises:
        UserError: if the data set is not available, its images have no boxes, or pycocotools is
            not installed.
    """
    options = config.dataset
    check_pycocotools()  # for the evaluations to come
    return DetectionDataset.of(*_images(options), **_prepared(config))


def annotated_folder(
    config: ConfigDict, directory: str, class_names: Sequence[str]
) -> DetectionDataset:
    """Returns the validation images of a folder to evaluate a detector on, prepared like its own.

    Args:
        config: of the detector's run.
        directory: with annotations in COCO's format; see `read_coco`.
        class_names: of the detector, from class 1.

    Raises:
        UserError: if the folder cannot be used, or has other classes.
    """
    images = read_split(directory, "val")
    if images.categories.names != tuple(class_names):
        pairs = itertools.zip_longest(images.categories.names, class_names, fillvalue="none")
        number, (theirs, ours) = next(
            (k, pair) for k, pair in enumerate(pairs, start=1) if pair[0] != pair[1]
        )
        raise UserError(
            f"class {number} of the images in {directory} is {theirs}, but that of the run is "
            f"{ours}; give images with the same classes"
        )
    return DetectionDataset(directory, images, images, **_prepared(config))


def no_images(config: ConfigDict, progress: Mapping[str, Any]) -> DetectionDataset:
    """Returns a data set without images, for a detector that is opened without its own.

    Args:
        config: of the detector's run.
        progress: the plain values in a checkpoint of the run.
    """
    names = tuple(progress["class_names"])
    categories = Categories(tuple(range(1, len(names) + 1)), names)
    nothing = CocoImages(to_path("."), (), categories, Annotations.of_nothing())
    return DetectionDataset(config.dataset.name, nothing, nothing, **_prepared(config))


def _prepared(config: ConfigDict) -> dict[str, Any]:
    """Returns the attributes of a data set that say how its images are prepared."""
    options, prepared = config.dataset, normalisation(config.model.name)
    return {
        "sizes": Sizes(options.short_side, options.long_side),
        "mean": tuple(options.mean) or prepared.mean,
        "std": tuple(options.std) or prepared.std,
        "horizontal_flip": config.augment.horizontal_flip,
        "workers": options.workers,
    }


def _images(options: ConfigDict) -> tuple[str, AnnotatedImages, AnnotatedImages]:
    """Returns the name of the data set, and its training and test images."""
    if options.coco:
        return (resolved(to_path(options.coco)).name, *read_coco(options.coco))
    name, directory = options.name, options.data_dir
    if name == GENERATED:
        return name, *shapes()
    split = evaluation_split(name, directory)
    return name, TfdsBoxes(name, "train", directory), TfdsBoxes(name, split, directory)
