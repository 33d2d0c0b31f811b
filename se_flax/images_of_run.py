"""How a run prepares its images, and other images that are prepared in the same way.

Every checkpoint stores it, so that a network can be used without the data it was trained on.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from se_flax.data.dataset import RunDataset
from se_flax.data.from_config import preparation_of
from se_flax.data.image_source import ImageSource
from se_flax.data.images import CenterCrop
from se_flax.data.streaming import StreamedDataset
from se_flax.detection.dataset import DetectionDataset
from se_flax.errors import UserError
from se_flax.models import Preparation, model_info
from se_flax.old_configs import streams_images
from se_flax.program import dataset_of_run
from se_flax.runtime.paths import Path


def stored_preparation(config: ConfigDict, dataset: RunDataset) -> dict[str, Any]:
    """Returns what a checkpoint stores of how a run's images are prepared, as plain values.

    Images held in memory are used as they are. If others take their place, all of an image's short
    side is kept, and it is resized as for the network.

    Args:
        config: of the run.
        dataset: of the run.
    """
    height, width, channels = map(int, dataset.image_shape)
    if isinstance(dataset, DetectionDataset):
        sides = {"short_side": dataset.sizes.short, "long_side": dataset.sizes.long}
        return {**sides, "mean": list(dataset.mean), "std": list(dataset.std)}
    resized = {"crop_pct": 1.0, "interpolation": model_info(config.model.name).interpolation}
    crop = dataset.eval_crop if isinstance(dataset, StreamedDataset) else None
    if isinstance(crop, CenterCrop):
        resized = {"crop_pct": crop.crop_pct, "interpolation": crop.interpolation}
    return {
        "image_shape": [height, width, channels],
        **resized,
        "mean": _by_channel(dataset.mean, channels),
        "std": _by_channel(dataset.std, channels),
    }


def preparation_of_run(
    workdir: Path,
    config: ConfigDict,
    progress: Mapping[str, Any],
    dataset: RunDataset | None = None,
) -> Preparation:
    """Returns how a run prepares its images; mean and std have one value per channel.

    Args:
        workdir: of the run, for messages.
        config: of the run.
        progress: the plain values in a checkpoint of the run.
        dataset: the run's data set. It is only needed if the checkpoint is of an earlier version,
            which did not store the preparation, and then by default loaded as the config says.

    Raises:
        UserError: if that data set cannot be loaded, or the images are not square, or are neither
            colour nor grey.
    """
    stored = progress.get("preparation")
    if stored is None and dataset is None and streams_images(config):
        own = preparation_of(config, model_info(config.model.name).preparation)
        mean, std = (tuple(_by_channel(values, 3)) for values in (own.mean, own.std))
        return dataclasses.replace(own, mean=mean, std=std)
    if stored is None:
        try:
            stored = stored_preparation(config, dataset_of_run(config, dataset))
        except UserError as error:
            raise UserError(
                f"{workdir} is of an earlier version, which did not store how its images are "
                f"prepared, so its data set is needed as well: {error}"
            ) from error
    height, width, channels = stored["image_shape"]
    if height != width or channels not in (1, 3):
        raise UserError(
            f"{workdir} was trained on images of {height} x {width} pixels with {channels} "
            "channels, but other images are prepared only for networks that take square ones in "
            "colour or grey; give its own data set, as in "
            "se_flax.evaluate.evaluate_workdir(workdir, dataset=...)"
        )
    mean, std = tuple(stored["mean"]), tuple(stored["std"])
    return Preparation(height, stored["crop_pct"], stored["interpolation"], mean, std)


def prepared_alike(
    name: str, source: ImageSource, preparation: Preparation, workers: int = 0
) -> StreamedDataset:
    """Returns images as a data set, to evaluate networks that want this preparation.

    Args:
        name: name of the data set.
        source: the images, which are both its training and its test images.
        preparation: how to prepare them; to grey levels, if it has one mean.
        workers: see `StreamedDataset`.
    """
    crop = CenterCrop.of(preparation, len(preparation.mean))
    mean, std = preparation.mean, preparation.std
    return StreamedDataset(name, source, source, crop, crop, mean, std, workers=workers)


def _by_channel(values: tuple[float, ...], channels: int) -> list[float]:
    """Returns one value per channel, given that many or one for all of them."""
    return np.broadcast_to(np.asarray(values, float), channels).tolist()
