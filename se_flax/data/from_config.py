"""The data set selected by a run's config."""

import dataclasses

from ml_collections import ConfigDict

from se_flax.data.dataset import ImageDataset
from se_flax.data.folders import ImageFolder
from se_flax.data.image_source import ImageSource
from se_flax.data.images import CenterCrop, Crop, RandomResizedCrop
from se_flax.data.label_file import LabelFile, label_path
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.sources import (
    TfdsImages,
    evaluation_split,
    known_datasets,
    load_dataset,
    statistics_of,
)
from se_flax.data.stages import growing
from se_flax.data.streaming import StreamedDataset
from se_flax.errors import UserError
from se_flax.models import Preparation, model_info
from se_flax.runtime.paths import resolved, to_path


def dataset_of(config: ConfigDict) -> ImageDataset:
    """Returns the data set of a run; downloads and prepares it first if necessary.

    Data sets in `known_datasets()` are read into memory. All others are streamed: the folders
    `train` and `val` in `config.dataset.image_dir` if it is set, or the images in it that the file
    `config.dataset.labels` lists; and otherwise the TFDS data set `config.dataset.name`, evaluated
    on its split `validation` or, if it has none, `test`.

    Raises:
        UserError: if the data set is not available, or has images that cannot be used.
    """
    options = config.dataset
    if not options.image_dir and options.name in known_datasets():
        return load_dataset(options.name, options.data_dir)
    if options.image_dir:
        train, test = (source.checked(options.skip_bad) for source in _folders(options))
        name = resolved(to_path(options.image_dir)).name
    else:
        name = options.name
        test_split = evaluation_split(name, options.data_dir)
        train, test = (TfdsImages(name, split, options.data_dir) for split in ("train", test_split))
    return streamed(config, name, train, test)


def _folders(options: ConfigDict) -> tuple[ImageFolder, ImageFolder]:
    """Returns the training and test images in `config.dataset.image_dir`."""
    directory, upright = to_path(options.image_dir), options.exif_orientation
    if options.labels:
        file = LabelFile.read(label_path(directory, options.labels), options.label_separator)
        file.check(options.multi_label)
        return file.images(directory, "train", upright), file.images(directory, "val", upright)
    for split in ("train", "val"):
        if not (directory / split).is_dir():
            raise UserError(
                f"{directory} has no folder {split}; it must have the folders train and val, "
                "each with a folder of images per class"
            )
    train = ImageFolder.of(directory / "train", exif_orientation=upright)
    return train, ImageFolder.of(directory / "val", train.class_names, upright)


def streamed(
    config: ConfigDict, name: str, train: ImageSource, test: ImageSource
) -> StreamedDataset:
    """Returns a data set of streamed images, cropped and normalised as the config says.

    What the config does not set is the network's (`se_flax.models.model_info`), except for mean and
    standard deviation where the data set's own are known.
    """
    prepared = preparation_of(config, model_info(config.model.name).preparation)
    eval_crop = CenterCrop.of(prepared)

    def crop_of(size: float) -> Crop:
        if config.augment.random_resized_crop:
            return RandomResizedCrop(round(size), tuple(config.augment.crop_area))
        return dataclasses.replace(eval_crop, size=round(size))

    progressive = config.progressive
    last_size = config.dataset.train_size or prepared.size
    sizes = growing(progressive.train_size, last_size, progressive.stages)
    *earlier_crops, train_crop = map(crop_of, sizes)
    return StreamedDataset(
        name=name,
        train=train,
        test=test,
        train_crop=train_crop,
        eval_crop=eval_crop,
        mean=prepared.mean,
        std=prepared.std,
        workers=config.dataset.workers,
        earlier_crops=tuple(earlier_crops),
    )


def preprocessing_of(config: ConfigDict, dataset: ImageDataset) -> Preprocessing:
    """Returns how a run augments and normalises images on the devices."""
    mix_batch = config.batch_size if config.augment.mix_by == "batch" else 0
    return Preprocessing.of(dataset, {**config.augment, "mix_batch": mix_batch})


def preparation_of(config: ConfigDict, otherwise: Preparation) -> Preparation:
    """Returns how a run's streamed images are prepared.

    Args:
        config: of the run.
        otherwise: the preparation for what neither the config nor its data set states.
    """
    options = config.dataset
    known = None if options.image_dir or config.init_from else statistics_of(options.name)
    mean, std = known or (otherwise.mean, otherwise.std)
    return Preparation(
        options.image_size or otherwise.size,
        options.crop_pct or otherwise.crop_pct,
        options.interpolation or otherwise.interpolation,
        tuple(options.mean) or mean,
        tuple(options.std) or std,
    )
