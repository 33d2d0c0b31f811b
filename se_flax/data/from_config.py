"""The data set selected by a run's config."""

import pathlib

from ml_collections import ConfigDict

from se_flax.data.dataset import ImageDataset
from se_flax.data.folders import ImageFolder
from se_flax.data.images import CenterCrop, Crop, RandomResizedCrop
from se_flax.data.sources import TfdsImages, evaluation_split, known_datasets, load_dataset
from se_flax.data.streaming import ImageSource, StreamedDataset
from se_flax.errors import UserError
from se_flax.models import model_info


def dataset_of(config: ConfigDict) -> ImageDataset:
    """Returns the data set of a run; downloads and prepares it first if necessary.

    Data sets in `known_datasets()` are read into memory. All others are streamed: the folders
    `train` and `val` in `config.dataset.image_dir` if it is set, and otherwise the TFDS data set
    `config.dataset.name`, evaluated on its split `validation` or, if it has none, `test`.

    Raises:
        UserError: if the data set is not available, or has images that cannot be used.
    """
    options = config.dataset
    if not options.image_dir and options.name in known_datasets():
        return load_dataset(options.name, options.data_dir)
    if options.image_dir:
        directory = pathlib.Path(options.image_dir).expanduser()
        for split in ("train", "val"):
            if not (directory / split).is_dir():
                raise UserError(
                    f"{directory} has no folder {split}; it must have the folders train and val, "
                    "each with a folder of images per class"
                )
        train = ImageFolder.of(directory / "train")
        test = ImageFolder.of(directory / "val", train.class_names)
        train, test = (source.checked(options.skip_bad) for source in (train, test))
        name = directory.resolve().name
    else:
        name = options.name
        test_split = evaluation_split(name, options.data_dir)
        train, test = (TfdsImages(name, split, options.data_dir) for split in ("train", test_split))
    return streamed(config, name, train, test)


def streamed(
    config: ConfigDict, name: str, train: ImageSource, test: ImageSource
) -> StreamedDataset:
    """Returns a data set of streamed images, cropped and normalised as the config says.

    Image size, evaluation crop and interpolation are the network's
    (`se_flax.models.model_info`), unless the config sets them. Mean and standard deviation are
    always the network's.
    """
    options, info = config.dataset, model_info(config.model.name)
    size = options.image_size or info.input_size
    interpolation = options.interpolation or info.interpolation
    eval_crop = CenterCrop(size, options.crop_pct or info.crop_pct, interpolation)
    train_crop: Crop = eval_crop
    if config.augment.random_resized_crop:
        train_crop = RandomResizedCrop(size, tuple(config.augment.crop_area))
    return StreamedDataset(
        name=name,
        train=train,
        test=test,
        train_crop=train_crop,
        eval_crop=eval_crop,
        mean=info.mean,
        std=info.std,
        workers=options.workers,
    )
