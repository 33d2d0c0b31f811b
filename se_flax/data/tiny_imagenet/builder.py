"""Tiny ImageNet-200 as a TFDS data set, made from its authors' zip."""

import contextlib
import dataclasses
import io
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import requests
import tensorflow_datasets as tfds
from PIL import Image

from se_flax.data.sources import prepared_builder
from se_flax.errors import UserError

URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
FILE_NAME = "tiny-imagenet-200.zip"
SIZE = 64  # height and width of the images, in pixels


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of an archive.

    Attributes:
        wnids: WordNet id of each class, in the order of the labels.
        words: name of each class in words, in the same order.
        images: for each split, (name in the archive, wnid) of each image.
    """

    wnids: tuple[str, ...]
    words: tuple[str, ...]
    images: dict[str, list[tuple[str, str]]]


def read_contents(archive: pathlib.Path) -> Contents:
    """Returns the contents of a zip in the official layout, without decoding images.

    Classes are numbered in the order of the lines in `wnids.txt`, which are not sorted. Bounding
    boxes are ignored, and so are the images of `test`, whose labels were not published.

    Args:
        archive: path of `tiny-imagenet-200.zip`, or of a zip with the same layout and fewer
            classes or images: `wnids.txt`, `words.txt`, `train/<wnid>/images/*.JPEG`,
            `val/images/*.JPEG` and `val/val_annotations.txt`, all in one folder or at the top
            level.

    Raises:
        UserError: if the file is not a zip, has a different layout, or has an image without a
            known class.
    """
    with _open(archive) as file:
        members = [item.filename for item in file.infolist() if not item.is_dir()]
        roots = [name.removesuffix("wnids.txt") for name in members if _last(name) == "wnids.txt"]
        root = min(roots, key=len, default="")
        wnids = tuple(dict.fromkeys(_lines(file, f"{root}wnids.txt")))
        lines = (line.partition("\t") for line in _lines(file, f"{root}words.txt"))
        names = {wnid: words for wnid, _, words in lines}
        annotations = f"{root}val/val_annotations.txt"
        rows = [line.split("\t") for line in _lines(file, annotations)]
        labels = {f"{root}val/images/{row[0]}": row[1] for row in rows if len(row) > 1}

    train = re.compile(re.escape(root) + r"train/([^/]+)/images/[^/]+\.JPEG")
    validation = re.compile(re.escape(root) + r"val/images/[^/]+\.JPEG")
    images: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
    for name in members:
        if match := train.fullmatch(name):
            images["train"].append((name, match[1]))
        elif validation.fullmatch(name):
            if name not in labels:
                raise UserError(
                    f"{archive}: {annotations} gives no class for {_last(name)}; give the official "
                    f"{FILE_NAME}"
                )
            images["validation"].append((name, labels[name]))
    known = set(wnids)
    for split, found in images.items():
        if not found:
            raise UserError(
                f"{archive} has no {split} images in train/<wnid>/images/ and val/images/; give "
                f"the official {FILE_NAME}"
            )
        for name, wnid in found:
            if wnid not in known:
                raise UserError(
                    f"{archive}: {name} has the class {wnid}, which is not in wnids.txt; give the "
                    f"official {FILE_NAME}"
                )
    return Contents(wnids, tuple(names.get(wnid, wnid) for wnid in wnids), images)


def _open(archive: pathlib.Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {archive}; give a downloaded {FILE_NAME}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a complete zip ({error}); download it again") from error


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _read(file: zipfile.ZipFile, name: str) -> bytes:
    try:
        return file.read(name)
    except KeyError as error:
        raise UserError(f"{file.filename} has no {name}; give the official {FILE_NAME}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{file.filename}: {name} is damaged; download the zip again") from error


def _lines(file: zipfile.ZipFile, name: str) -> list[str]:
    text = _read(file, name).decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_image(file: zipfile.ZipFile, name: str) -> bytes:
    image = _read(file, name)
    try:
        with Image.open(io.BytesIO(image)) as opened:
            found = (opened.format, opened.size, opened.mode)
    except OSError:
        found = None
    if found not in [("JPEG", (SIZE, SIZE), mode) for mode in ("RGB", "L")]:
        raise UserError(
            f"{file.filename}: {name} is not an RGB or grey JPEG of {SIZE}x{SIZE} pixels; give the "
            f"official {FILE_NAME}"
        )
    return image


def _name_classes(info: Any, contents: Contents) -> None:
    info.features["label"].names = list(contents.wnids)
    info.metadata["words"] = list(contents.words)


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Tiny ImageNet: 200 classes of ImageNet at 64x64 pixels (Le and Yang, 2015).

    It has 100,000 training and 10,000 validation images. The official `test` split has no labels
    and is not included. The encoded images are copied from the archive; grey images become RGB
    when they are read. Label names are wnids in the order of `wnids.txt`. They and
    `info.metadata["words"]` are saved with the data, so reading a prepared data set does not
    need the archive.

    Attributes:
        archive: zip to prepare the data from; by default the one in TFDS's folder for manual
            downloads, or if there is none, a download of the official one.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Without a network, place {FILE_NAME} from {URL} here."

    archive: pathlib.Path | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="200 classes of ImageNet, 500 training and 50 validation images of each.",
            homepage="https://cs231n.stanford.edu",
            citation="Ya Le and Xuan Yang: Tiny ImageNet Visual Recognition Challenge, 2015",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(),  # the archive has the names
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        archive = self.archive or self._find_archive(dl_manager)
        contents = read_contents(archive)
        _name_classes(self.info, contents)
        return {
            split: self._generate_examples(archive, images)
            for split, images in contents.images.items()
        }

    def _find_archive(self, dl_manager: tfds.download.DownloadManager) -> pathlib.Path:
        manual = pathlib.Path(dl_manager.download_dir) / "manual" / FILE_NAME
        with contextlib.suppress(AssertionError):  # the folder is missing or empty
            manual = pathlib.Path(dl_manager.manual_dir) / FILE_NAME
        if manual.is_file():
            return manual
        try:
            # TFDS retries a failing download for minutes; this request fails immediately.
            requests.head(URL, timeout=20).raise_for_status()
            return pathlib.Path(dl_manager.download(URL))
        except OSError as error:
            raise UserError(
                f'"{self.name}" is not prepared in {self.data_dir_root} and {URL} cannot be '
                f"downloaded ({type(error).__name__}); run python -m se_flax.data.tiny_imagenet "
                "on a machine with a network connection, pass it an existing zip with --zip=PATH, "
                f"or copy the zip to {manual}"
            ) from error

    def _generate_examples(
        self, archive: pathlib.Path, images: list[tuple[str, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(archive) as file:
            for name, wnid in images:
                image = io.BytesIO(_read_image(file, name))
                key = _last(name)
                yield key, {"image": image, "label": wnid, "file_name": key}


def prepare(archive: str | pathlib.Path | None = None, data_dir: str | None = None) -> Any:
    """Prepares Tiny ImageNet as ArrayRecord, if necessary; returns its TFDS builder.

    Args:
        archive: path of the zip; by default `<data_dir>/downloads/manual/tiny-imagenet-200.zip`,
            or if there is none, a download of the official one.
        data_dir: folder of TFDS data sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UserError: if no archive is available, it cannot be used, or `archive` is given although
            the data set is already prepared.
    """
    if archive is None:
        return prepared_builder(TinyImagenet.name, data_dir)
    builder = TinyImagenet(data_dir=data_dir)
    if builder.is_prepared():
        raise UserError(
            f'"{builder.name}" is already prepared in {builder.data_path}; delete that folder to '
            f"prepare it from {archive}"
        )
    builder.archive = pathlib.Path(archive).expanduser()
    _open(builder.archive).close()  # or TFDS announces a download, and leaves a folder, before this
    builder.download_and_prepare(file_format="array_record")
    return builder


def words(data_dir: str | None = None) -> tuple[str, ...]:
    """Returns the name of each class in words, for example "Egyptian cat" or "lemon".

    Synonyms are separated by commas. The name of a class that is not in `words.txt` is its wnid.

    Args:
        data_dir: see `prepare`; the data set is prepared first if necessary.

    Raises:
        UserError: if the data set is neither prepared nor downloadable.
    """
    return tuple(prepared_builder(TinyImagenet.name, data_dir).info.metadata["words"])
