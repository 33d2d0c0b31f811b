"""Labelled images in a folder with one folder per class, and a check for unreadable files."""

import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from se_flax.data.images import decode
from se_flax.errors import UserError
from se_flax.runtime.paths import Path, files_below, is_in_bucket, read_bytes, to_path
from se_flax.runtime.status import say_detail

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SUFFIXES += (".avif", ".jp2", ".ppm", ".pgm")
# The marker that ends a complete JPEG, and how many bytes before the end of the file it may start.
_END_OF_JPEG, _NEAR_THE_END = b"\xff\xd9", 64
_REQUESTS_AT_ONCE = 64  # to a bucket
_CHECKED_AT_ONCE = 4096
_SHOWN = 20  # number of problems listed in a message


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images in `directory/<class>/`, read one at a time.

    Entry i is a dictionary with `image`, the file's bytes, `label`, the index of the class in
    `class_names`, and `upright`, if that is True.

    Attributes:
        directory: folder with one folder per class.
        class_names: names of the class folders, in the order of the labels.
        paths: path of each image.
        labels: label of each image. Those of `se_flax.data.label_file` may be uint8 [n, classes]:
            1 for the classes of an image, and 0 for the others.
        problems: problems with folders, one sentence each.
        upright: whether to turn images as their EXIF orientation says.
    """

    directory: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...] | UInt8[np.ndarray, "n classes"]
    problems: tuple[str, ...] = ()
    upright: bool = False

    @classmethod
    def of(
        cls,
        directory: str | os.PathLike[str],
        class_names: tuple[str, ...] | None = None,
        exif_orientation: bool = False,
    ) -> "ImageFolder":
        """Lists the images in a directory.

        Args:
            directory: folder with one folder per class, on a disk or in a bucket.
            class_names: names of the classes, in order; by default the names of all folders,
                sorted. Every folder must be named here, but not every class needs a folder.
            exif_orientation: whether to turn images as their EXIF orientation says.

        Raises:
            UserError: if the directory does not exist, has no images, or has a folder that is
                not in `class_names`.
        """
        directory = to_path(directory)
        if not directory.is_dir():
            raise UserError(f"there is no folder {directory}; give one with a folder per class")
        folders = sorted(
            path.name
            for path in directory.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
        class_names = tuple(folders) if class_names is None else tuple(class_names)
        unknown = [name for name in folders if name not in class_names]
        if unknown:
            raise UserError(
                f"{directory} has folders of unknown classes: {_listed(unknown)}; "
                f"rename or remove them; known classes are {_listed(class_names)}"
            )
        paths, labels, problems = [], [], []
        for folder in folders:
            images, unreadable = images_below(directory / folder, before=len(paths))
            paths += images
            labels += [class_names.index(folder)] * len(images)
            problems += unreadable
            if not images and not unreadable:
                problems.append(f"{directory / folder} has no images")
        if not paths:
            raise UserError(
                f"{directory} has no images; put them in {directory}/<class>/ with one of the "
                f"suffixes {', '.join(SUFFIXES)}"
            )
        lists = tuple(paths), tuple(labels), tuple(problems)
        return cls(directory, class_names, *lists, upright=exif_orientation)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = {"image": read_bytes(self.paths[i]), "label": self.labels[i]}
        return {**record, "upright": True} if self.upright else record

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several classes, or none."""
        return isinstance(self.labels, np.ndarray)

    def describe(self, i: int) -> str:
        """Returns the path of an image."""
        return str(self.paths[i])

    def bad_images(self) -> Iterator[tuple[int, str]]:
        """Yields the index and fault of each image that is unreadable, empty or truncated."""
        is_remote = is_in_bucket(self.directory)
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE if is_remote else None) as pool:
            for start in range(0, len(self), _CHECKED_AT_ONCE):
                if start:
                    say_detail(f"{start:,} of {len(self):,} images checked")
                paths = self.paths[start : start + _CHECKED_AT_ONCE]
                for i, fault in enumerate(pool.map(_fault, paths), start):
                    if fault:
                        yield i, fault

    def checked(self, skip_bad: bool) -> "ImageFolder":
        """Returns the folder without bad images.

        Args:
            skip_bad: whether to skip bad images and print which, instead of raising.

        Raises:
            UserError: if there are problems and `skip_bad` is False, or no good image remains.
        """
        faults = dict(self.bad_images())
        problems = [f"{self.paths[i]} ({fault})" for i, fault in faults.items()]
        problems += self.problems
        if not problems:
            return self
        shown = "; ".join(problems[:_SHOWN])
        more = len(problems) - _SHOWN
        shown += f"; and {more:,} more" if more > 0 else ""
        if not skip_bad:
            count = f"{len(problems):,} " if len(problems) > 1 else ""
            raise UserError(
                f"{self.directory} has {count}images or folders that cannot be used: {shown}; "
                "repair or remove them, or skip them with config.dataset.skip_bad=True (--skip_bad)"
            )
        print(f"skipped {len(faults)} of {len(self)} images in {self.directory}: {shown}")
        kept = [i for i in range(len(self)) if i not in faults]
        if not kept:
            raise UserError(f"no image in {self.directory} can be read; give another folder")
        labels = self.labels
        several = isinstance(labels, np.ndarray)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in kept),
            labels=labels[kept] if several else tuple(labels[i] for i in kept),
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def images_below(
    folder: Path, suffixes: tuple[str, ...] = SUFFIXES, before: int = 0
) -> tuple[list[Path], list[str]]:
    """Lists the images in a folder and those below it; hidden files and folders are passed over.

    Args:
        folder: the folder.
        suffixes: endings of the names of images.
        before: number of images that were listed before, which is shown with those of this folder.

    Returns:
        The images, sorted, and what cannot be read in the folder, one sentence each.
    """
    if is_in_bucket(folder):
        depth = len(folder.parts)
        files = (path for path in files_below(folder) if path.name.lower().endswith(suffixes))
        return [path for path in files if not any(_is_hidden(x) for x in path.parts[depth:])], []
    unreadable, found = [], []

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename} cannot be read ({error.strerror})")

    for directory, folders, names in os.walk(folder, onerror=note):
        folders[:] = itertools.filterfalse(_is_hidden, folders)
        found += [
            f"{directory}{os.sep}{name}"
            for name in names
            if name.lower().endswith(suffixes) and not _is_hidden(name)
        ]
        say_detail(f"{before + len(found):,} images found")
    found.sort(key=lambda path: path.replace(os.sep, "\0"))  # as a list of names
    return [pathlib.Path(path) for path in found], unreadable


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _fault(path: Path) -> str | None:
    """Returns the fault of an image file, or None.

    To save time, a file is only decoded if its format has no mark of a complete file, or lacks it.
    Damage in the middle of a JPEG is not found: some of it can be decoded, to a damaged image.
    """
    try:
        # A request takes longer than it takes to send a whole image.
        with io.BytesIO(read_bytes(path)) if is_in_bucket(path) else path.open("rb") as file:
            if not file.read(1):
                return "empty"
            file.seek(0)
            if _is_whole(file):
                return None
            file.seek(0)
            content = file.read()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
        decode(content)
    except UserError as error:
        return str(error)
    except Image.UnidentifiedImageError:
        return "not an image"
    except FileNotFoundError:
        return "no such file"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error).partition("\n")[0]
    return None


def _is_whole(file: Any) -> bool:
    """Whether a file has all bytes of an image, as far as can be seen without decoding it.

    That is the marker at the end of a JPEG, the length of a WebP, and the checksum of each part of
    a PNG.
    """
    with Image.open(file) as image:
        form = image.format
        if form == "PNG":
            try:
                image.verify()
                return True
            except (OSError, SyntaxError, ValueError):
                return False
    size = file.seek(0, os.SEEK_END)
    if form == "JPEG":
        file.seek(max(0, size - _NEAR_THE_END))
        return _END_OF_JPEG in file.read()
    if form == "WEBP":  # RIFF: a name and the length of the rest, of 4 bytes each
        file.seek(4)
        return 8 + int.from_bytes(file.read(4), "little") <= size
    return False
