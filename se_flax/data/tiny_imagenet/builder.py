"""Tiny ImageNet-200 as a TFDS data set, made from the zip that its authors publish."""

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
    """What an archive says it holds.

    Attributes:
        wnids: the WordNet number of each class; its place here is the class's label.
        words: what each class is called, in the same order.
        images: of each split, name in the archive and wnid of each image.
    """

    wnids: tuple[str, ...]
    words: tuple[str, ...]
    images: dict[str, list[tuple[str, str]]]


def read_contents(archive: pathlib.Path) -> Contents:
    """Returns what a zip in the official layout holds; decodes no image.

    Classes are numbered as the lines of `wnids.txt`, which are not sorted. The boxes, and the
    images of `test`, whose labels were not published, are left out.

    Args:
        archive: `tiny-imagenet-200.zip`, or one with the same layout and fewer classes or
            images: `wnids.txt`, `words.txt`, `train/<wnid>/images/*.JPEG`,
            `val/images/*.JPEG` and `val/val_annotations.txt`, all in one folder or in none.

    Raises:
        UserError: if it is no zip or has another layout, or an image has no known class.
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
                raise UserError(f"{archive}: {annotations} gives no class for {_last(name)}")
            images["validation"].append((name, labels[name]))
    known = set(wnids)
    for split, found in images.items():
        if not found:
            raise UserError(
                f"{archive} has no {split} images where those of Tiny ImageNet are, in "
                f"train/<wnid>/images/ and val/images/; give the official {FILE_NAME}"
            )
        for name, wnid in found:
            if wnid not in known:
                raise UserError(f"{archive}: {name} is of the class {wnid}, not in wnids.txt")
    return Contents(wnids, tuple(names.get(wnid, wnid) for wnid in wnids), images)


def _open(archive: pathlib.Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {archive}; give a downloaded {FILE_NAME}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a whole zip ({error}); download it again") from error


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
            f"{file.filename}: {name} is no RGB or grey JPEG of {SIZE}x{SIZE} pixels; give the "
            f"official {FILE_NAME}"
        )
    return image


def _name_classes(info: Any, contents: Contents) -> None:
    info.features["label"].names = list(contents.wnids)
    info.metadata["words"] = list(contents.words)


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Tiny ImageNet: 200 classes of ImageNet in 64x64 pixels (Le and Yang, 2015).

    100,000 images to train on and 10,000 to validate on, the official `test` being without
    labels. The images are stored as they are in the archive; the grey ones among them become
    RGB when they are read. Label names are wnids in the order of the archive's `wnids.txt`, kept
    beside the data as is `info.metadata["words"]`, so a prepared data set is read without it.

    Attributes:
        archive: the zip to prepare the data from; by default the one in TFDS's folder for
            manual downloads, and where that has none, the official one, downloaded.
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
        with contextlib.suppress(AssertionError):  # if the folder is not there, or empty
            manual = pathlib.Path(dl_manager.manual_dir) / FILE_NAME
        if manual.is_file():
            return manual
        try:
            # A download that cannot succeed is retried for minutes; this one fails at once.
            requests.head(URL, timeout=20).raise_for_status()
            return pathlib.Path(dl_manager.download(URL))
        except OSError as error:
            raise UserError(
                f'"{self.name}" is not prepared in {self.data_dir_root} and {URL} cannot be '
                f"downloaded ({type(error).__name__}); run python -m se_flax.data.tiny_imagenet "
                "where there is a network, or give it a zip you have by --zip=PATH, or place "
                f"that at {manual}"
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
    """Prepares Tiny ImageNet as ArrayRecord, unless that was done; returns TFDS's builder.

    Args:
        archive: the zip; by default `<data_dir>/downloads/manual/tiny-imagenet-200.zip`, or
            where there is none, the official one, downloaded.
        data_dir: where TFDS keeps data; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UserError: if there is no archive to be had, or it cannot be used, or there is one
            although the data set is prepared already.
    """
    if archive is None:
        return prepared_builder(TinyImagenet.name, data_dir)
    builder = TinyImagenet(data_dir=data_dir)
    if builder.is_prepared():
        raise UserError(
            f'"{builder.name}" is prepared already in {builder.data_path}; delete that folder to '
            f"prepare it from {archive}"
        )
    builder.archive = pathlib.Path(archive).expanduser()
    builder.download_and_prepare(file_format="array_record")
    return builder


def words(data_dir: str | None = None) -> tuple[str, ...]:
    """Returns what each class is called, such as "Egyptian cat" or "lemon".

    Synonyms are separated by commas. A class of which `words.txt` knew nothing has its wnid.

    Args:
        data_dir: as for `prepare`; the data set is prepared if it was not.

    Raises:
        UserError: if the data set is neither prepared nor downloadable.
    """
    return tuple(prepared_builder(TinyImagenet.name, data_dir).info.metadata["words"])
