"""Data sets by name: scikit-learn's digits, and TFDS data sets in memory or streamed."""

import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from se_flax.data.memory import Dataset, Split
from se_flax.errors import UserError, nearest
from se_flax.models.registry import CIFAR10_MEAN, CIFAR10_STD
from se_flax.runtime.compiler import cache_dir
from se_flax.runtime.paths import Path, is_in_bucket, local_copy, to_path


def _digits(data_dir: str | None) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    return Dataset(
        name="digits",
        train=Split(train_images, train_labels),
        test=Split(test_images, test_labels),
        class_names=tuple(str(name) for name in digits.target_names),
        mean=(0.3054,),
        std=(0.3760,),
        horizontal_flip=False,
    )


@dataclasses.dataclass(frozen=True)
class _TfdsInfo:
    """Properties of a data set that TFDS does not provide; see `Dataset`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    horizontal_flip: bool


# Statistics of the official training splits.
_TFDS = {
    "cifar10": _TfdsInfo(CIFAR10_MEAN, CIFAR10_STD, True),
    "cifar100": _TfdsInfo((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True),
    "svhn_cropped": _TfdsInfo((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), False),
}


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns the mean and standard deviation of a data set's channels, or None if unknown.

    Other forms of a known data set, such as TFDS's `cifar10_n` and `cifar10_corrupted`, have the
    values of the original.

    Args:
        name: name of a TFDS data set.
    """
    info = next((_TFDS[known] for known in _TFDS if f"{name}_".startswith(f"{known}_")), None)
    return (info.mean, info.std) if info else None


# Streamed data sets that are accepted without asking TFDS. Its other data sets work as well.
_STREAMED = ("imagenet2012", "imagenette", "tiny_imagenet")


def prepared_builder(name: str, data_dir: str | None) -> Any:
    """Returns the TFDS builder of a data set; downloads and prepares the data if necessary.

    Raises:
        UserError: if TFDS has no data set of this name, or it is neither prepared nor
            downloadable.
    """
    # TFDS imports TensorFlow only to prepare data and to read data prepared as TFRecord. It needs
    # no TensorFlow to read ArrayRecord.
    import tensorflow_datasets as tfds

    import se_flax.data.tiny_imagenet  # noqa: F401  registers the data set with TFDS

    directory = to_path(data_dir) if data_dir else None
    try:
        try:
            builder = tfds.builder(name, data_dir=directory, file_format="array_record")
        except ValueError:  # prepared in another format
            builder = tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise UserError(f'TFDS has no data set "{name}"{nearest(name, known)}') from error
    if directory is not None and is_in_bucket(directory):
        return _copied(builder, directory)
    if not builder.is_prepared():
        _prepare(builder)
    return builder


def _copied(builder: Any, data_dir: Path) -> Any:
    """Returns the builder of a local copy of a data set that is prepared in a bucket.

    ArrayRecord files can be read at random places only on a disk.
    """
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        raise UserError(
            f'the data set "{builder.name}" is not prepared in {data_dir}; prepare it on a disk '
            f'(python -c \'import tensorflow_datasets as tfds; tfds.builder("{builder.name}", '
            'file_format="array_record").download_and_prepare()\'), and copy it: '
            f"gcloud storage cp -r ~/tensorflow_datasets/{builder.name} {data_dir}"
        )
    return tfds.builder_from_directory(local_copy(to_path(builder.data_path)))


def _tfds(name: str, data_dir: str | None) -> Dataset:
    builder = prepared_builder(name, data_dir)
    info = _TFDS[name]
    return Dataset(
        name=name,
        train=_read(builder, "train"),
        test=_read(builder, "test"),
        class_names=_class_names(builder),
        mean=info.mean,
        std=info.std,
        horizontal_flip=info.horizontal_flip,
    )


def _class_names(builder: Any) -> tuple[str, ...]:
    return tuple(builder.info.features["label"].names)


def _prepare(builder) -> None:
    import requests

    try:
        if builder.name != "tiny_imagenet":  # it checks for itself whether it needs a download
            # TFDS retries a failing download for minutes; this request fails immediately.
            requests.head(builder.info.homepage, timeout=20)
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f'the data set "{builder.name}" is not prepared in {builder.data_path.parent.parent} '
            f"and cannot be downloaded ({type(error).__name__}); on a machine with a network, run "
            f'python -c \'import tensorflow_datasets as tfds; tfds.builder("{builder.name}", '
            f'file_format="array_record").download_and_prepare()\', and set TFDS_DATA_DIR to '
            "the folder that holds the result"
        ) from error


def _read(builder, split: str) -> Split:
    """Reads a split from the cache of decoded images, or decodes it and adds it to the cache.

    Decoding CIFAR takes seconds; reading decoded images takes tenths of a second.
    """
    kept = cache_dir() / "decoded" / f"{builder.name}-{split}-{digest_of_files(builder)}.npz"
    try:
        with np.load(kept) as arrays:
            return Split(arrays["images"], arrays["labels"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not cached, or truncated
        result = _decode(builder, split)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, images=result.images, labels=result.labels)
        partial.replace(kept)
    except OSError as error:  # disk full or no permission; the run does not need the cache
        print(f"{builder.name} cannot be cached, so the next start will decode it again: {error}")
    return result


def digest_of_files(builder: Any) -> str:
    """Returns letters and digits that change when the files of a prepared data set change."""
    files = [pathlib.Path(path) for path in sorted(builder.data_path.iterdir())]
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(f"{builder.data_path} {state}".encode()).hexdigest()[:16]


def _decode(builder, split: str) -> Split:
    import tensorflow_datasets as tfds

    try:
        source = builder.as_data_source(split)
    except NotImplementedError:
        records = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        return Split(records["image"], records["label"])
    records = source.__getitems__(range(len(source)))
    return Split(
        np.stack([record["image"] for record in records]),
        np.array([record["label"] for record in records]),
    )


def evaluation_split(name: str, data_dir: str | None = None) -> str:
    """Returns "validation" if a TFDS data set has this split, and otherwise "test"."""
    splits = prepared_builder(name, data_dir).info.splits
    return "validation" if "validation" in splits else "test"


def encoded_records(name: str, builder: Any, split: str) -> Any:
    """Returns a split of a TFDS data set as a sequence of records, with images still encoded.

    Raises:
        UserError: if there is no such split, or it can only be read in order.
    """
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise UserError(
            f'"{name}" is prepared as {builder.info.file_format.value}, which has no random '
            'access; prepare it again with file_format="array_record"'
        ) from error
    except ValueError as error:
        raise UserError(
            f'"{name}" has no split "{split}"; its splits are {", ".join(builder.info.splits)}'
        ) from error


class TfdsImages:
    """A split of a TFDS data set, read one image at a time (see `streaming.ImageSource`).

    Attributes:
        class_names: names of the classes, in the order of the labels.

    Args:
        name: name of the data set.
        split: name of the split, or a TFDS split expression, for example "validation[:100]".
        data_dir: see `load_dataset`.

    Raises:
        UserError: if the data set or split does not exist, has no images and labels, or is neither
            prepared nor downloadable.
    """

    def __init__(self, name: str, split: str, data_dir: str | None = None):
        builder = prepared_builder(name, data_dir)
        features = builder.info.features
        if not {"image", "label"} <= set(features):
            raise UserError(
                f'the data set "{name}" does not have images and labels; choose one that does'
            )
        self.class_names = tuple(features["label"].names)
        self._name = f"{name} {split}"
        self._source = encoded_records(name, builder, split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._source[i]

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return f"image {i} of {self._name}"


_LOADERS: dict[str, Callable[[str | None], Dataset]] = {
    "digits": _digits,
    **{name: lambda data_dir, name=name: _tfds(name, data_dir) for name in _TFDS},
}


def known_datasets() -> list[str]:
    """Returns the names of the data sets that `load_dataset` reads."""
    return sorted(_LOADERS)


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Reads a data set into memory; downloads and prepares it first if necessary.

    Args:
        name: a name in `known_datasets()`. `digits` is scikit-learn's set of 1,797 handwritten
            digits of 8x8 pixels, split into 1,437 training and 360 test images; it needs no
            download.
        data_dir: folder of TFDS data sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UserError: if the name is unknown, or the data set is neither prepared nor downloadable.
    """
    check_dataset_name(name)
    if name not in _LOADERS:
        raise UserError(
            f'"{name}" can only be streamed, not read into memory; load_dataset reads '
            f"{', '.join(known_datasets())}"
        )
    return _LOADERS[name](data_dir)


def check_dataset_name(name: str) -> None:
    """Raises `UserError` unless the name is known to this module or to TFDS."""
    if name in _LOADERS or name in _STREAMED:
        return
    import tensorflow_datasets as tfds

    # A TFDS config may follow the name after a slash.
    if name.partition("/")[0] not in tfds.list_builders(with_community_datasets=False):
        known = sorted([*_LOADERS, *_STREAMED])
        raise UserError(
            f'there is no data set "{name}"{nearest(name, known)}; known are {", ".join(known)} '
            "and any TFDS data set with images and labels"
        )
