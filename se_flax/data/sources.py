"""Labelled images that fit in memory: TFDS data sets by name, and scikit-learn's digits."""

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
from se_flax.runtime.compiler import cache_dir


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
    """What TFDS does not say of a data set.

    Attributes:
        mean, std, horizontal_flip: see `Dataset`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    horizontal_flip: bool


# Statistics of the official training splits.
_TFDS = {
    "cifar10": _TfdsInfo((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), True),
    "cifar100": _TfdsInfo((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True),
    "svhn_cropped": _TfdsInfo((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), False),
}

_STREAMED = ("imagenet2012", "imagenette", "tiny_imagenet")  # and any other of TFDS


def prepared_builder(name: str, data_dir: str | None) -> Any:
    """Returns TFDS's builder of a data set, downloaded and prepared if it was not.

    Raises:
        UserError: if TFDS has no such data set, or it is neither prepared nor downloadable.
    """
    # TFDS reads ArrayRecord without TensorFlow, and imports it to prepare data or to read those
    # prepared as TFRecord.
    import tensorflow_datasets as tfds

    import se_flax.data.tiny_imagenet  # noqa: F401  TFDS knows it by name from here on

    data_dir = str(pathlib.Path(data_dir).expanduser()) if data_dir else None
    try:
        try:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        except ValueError:  # prepared in another format
            builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise UserError(f'TFDS has no data set "{name}"{nearest(name, known)}') from error
    if not builder.is_prepared():
        _prepare(builder)
    return builder


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


def tfds_class_names(name: str) -> tuple[str, ...]:
    """Returns what TFDS calls the classes of a data set, which need not be prepared."""
    import tensorflow_datasets as tfds

    return _class_names(tfds.builder(name))


def _class_names(builder: Any) -> tuple[str, ...]:
    return tuple(builder.info.features["label"].names)


def _prepare(builder) -> None:
    import requests

    try:
        if builder.name != "tiny_imagenet":  # which need not be downloaded, and tells if it must
            # A download that cannot succeed is retried for minutes; this one fails at once.
            requests.head(builder.info.homepage, timeout=20)
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f'the data set "{builder.name}" is not prepared in {builder.data_path.parent.parent} '
            f"and cannot be downloaded ({type(error).__name__}); where there is a network, run "
            f'python -c \'import tensorflow_datasets as tfds; tfds.builder("{builder.name}", '
            f'file_format="array_record").download_and_prepare()\', and set TFDS_DATA_DIR to '
            "the folder that holds the result"
        ) from error


def _read(builder, split: str) -> Split:
    """Reads a split, or the copy of it that was kept the first time.

    To decode CIFAR takes seconds at each start; to read it decoded, tenths of one.
    """
    files = [pathlib.Path(path) for path in sorted(builder.data_path.iterdir())]
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(f"{builder.data_path} {state}".encode()).hexdigest()[:16]
    kept = cache_dir() / "decoded" / f"{builder.name}-{split}-{key}.npz"
    try:
        with np.load(kept) as arrays:
            return Split(arrays["images"], arrays["labels"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # none yet, or not a whole one
        result = _decode(builder, split)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, images=result.images, labels=result.labels)
        partial.replace(kept)
    except OSError as error:  # no room, or no permission; it is only a copy
        print(f"{builder.name} will be decoded again at the next start: {error}")
    return result


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


class TfdsImages:
    """A split of a TFDS data set, read one image at a time (see `streaming.ImageSource`).

    Args:
        name: of the data set.
        split: its name, or any that TFDS understands, such as "validation[:100]".
        data_dir: as for `load_dataset`.

    Raises:
        UserError: if there is no such data set or split, or it is not one of labelled images,
            or it is neither prepared nor downloadable.
    """

    def __init__(self, name: str, split: str, data_dir: str | None = None):
        import tensorflow_datasets as tfds

        builder = prepared_builder(name, data_dir)
        features = builder.info.features
        if not {"image", "label"} <= set(features):
            raise UserError(f'"{name}" is not a data set of labelled images')
        self.class_names = tuple(features["label"].names)
        self._name = f"{name} {split}"
        try:
            self._source = builder.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except NotImplementedError as error:
            raise UserError(
                f'"{name}" is prepared as {builder.info.file_format.value}, which cannot be read '
                'in any order; prepare it again with file_format="array_record"'
            ) from error
        except ValueError as error:
            raise UserError(
                f'"{name}" has no split "{split}"; known are {", ".join(builder.info.splits)}'
            ) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._source[i]

    def describe(self, i: int) -> str:
        """Returns what to call an image in a message."""
        return f"image {i} of {self._name}"


_LOADERS: dict[str, Callable[[str | None], Dataset]] = {
    "digits": _digits,
    **{name: lambda data_dir, name=name: _tfds(name, data_dir) for name in _TFDS},
}


def known_datasets() -> list[str]:
    """Returns the names `load_dataset` takes."""
    return sorted(_LOADERS)


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Reads a data set into memory, downloading and preparing it first where needed.

    Args:
        name: one of `known_datasets()`. `digits` is scikit-learn's 1,797 handwritten digits of
            8x8 pixels, split into 1,437 to train on and 360 to test on, and needs no download.
        data_dir: where TFDS keeps data; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UserError: if it is not one of these, or neither prepared nor downloadable.
    """
    check_dataset_name(name)
    if name not in _LOADERS:
        raise UserError(
            f'"{name}" is not held in memory; those that are: {", ".join(known_datasets())}'
        )
    return _LOADERS[name](data_dir)


def check_dataset_name(name: str) -> None:
    """Raises `UserError` unless the data set is known here or to TFDS."""
    if name in _LOADERS or name in _STREAMED:
        return
    import tensorflow_datasets as tfds

    # A TFDS config may follow the name after a slash.
    if name.partition("/")[0] not in tfds.list_builders(with_community_datasets=False):
        known = sorted([*_LOADERS, *_STREAMED])
        raise UserError(
            f'there is no data set "{name}"{nearest(name, known)}; known are {", ".join(known)} '
            "and those of TFDS that have images and labels"
        )
