"""Labelled images in a folder with one folder per class, and a check for unreadable files."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from se_flax.data.images import decode
from se_flax.errors import UserError
from se_flax.runtime.paths import Path, files_below, is_in_bucket, read_bytes, to_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# By format: the marker that ends a complete file, and how many bytes before the end it may start.
_ENDS = {"JPEG": (b"\xff\xd9", 64)}
_REQUESTS_AT_ONCE = 64  # to a bucket
_SHOWN = 20  # number of problems listed in a message


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images in `directory/<class>/`, read one at a time.

    Entry i is a dictionary with `image`, the file's bytes, and `label`, the index of the class in
    `class_names`.

    Attributes:
        directory: folder with one folder per class.
        class_names: names of the class folders, in the order of the labels.
        paths: path of each image.
        labels: label of each image.
        problems: problems with folders, one sentence each.
    """

    directory: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, directory: str | os.PathLike[str], class_names: tuple[str, ...] | None = None
    ) -> "ImageFolder":
        """Lists the images in a directory.

        Args:
            directory: folder with one folder per class, on a disk or in a bucket.
            class_names: names of the classes, in order; by default the names of all folders,
                sorted. Every folder must be named here, but not every class needs a folder.

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
            images, unreadable = images_below(directory / folder)
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
        return cls(directory, class_names, tuple(paths), tuple(labels), tuple(problems))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, bytes | int]:
        return {"image": read_bytes(self.paths[i]), "label": self.labels[i]}

    def describe(self, i: int) -> str:
        """Returns the path of an image."""
        return str(self.paths[i])

    def bad_images(self) -> Iterator[tuple[int, str]]:
        """Yields the index and fault of each image that is unreadable, empty or truncated."""
        is_remote = is_in_bucket(self.directory)
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE if is_remote else None) as pool:
            for i, fault in enumerate(pool.map(_fault, self.paths)):
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
        shown += f"; and {more} more" if more > 0 else ""
        if not skip_bad:
            raise UserError(
                f"{self.directory} has images or folders that cannot be used: {shown}; repair or "
                "remove them, or skip them with config.dataset.skip_bad=True (--skip_bad)"
            )
        print(f"skipped {len(faults)} of {len(self)} images in {self.directory}: {shown}")
        kept = [i for i in range(len(self)) if i not in faults]
        if not kept:
            raise UserError(f"no image in {self.directory} can be read; give another folder")
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in kept),
            labels=tuple(self.labels[i] for i in kept),
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def images_below(
    folder: Path, suffixes: tuple[str, ...] = SUFFIXES
) -> tuple[list[Path], list[str]]:
    """Returns the images in a folder and those below it, sorted, and what cannot be read in it."""
    depth = len(folder.parts)
    if is_in_bucket(folder):
        return [path for path in files_below(folder) if _is_image(path, depth, suffixes)], []
    unreadable = []

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename} cannot be read ({error.strerror})")

    paths = [
        pathlib.Path(directory, name)
        for directory, _, names in os.walk(folder, onerror=note)
        for name in names
    ]
    return sorted(path for path in paths if _is_image(path, depth, suffixes)), unreadable


def _is_image(path: Path, depth: int, suffixes: tuple[str, ...]) -> bool:
    """Whether a file has one of the suffixes, and no hidden folder below a depth."""
    hidden = any(part.startswith(".") for part in path.parts[depth:])
    return path.name.lower().endswith(suffixes) and not hidden


def _fault(path: Path) -> str | None:
    """Returns the fault of an image file, or None.

    To save time, a JPEG is decoded only if its end-of-image marker is missing. Damage in the
    middle of a JPEG is not found: such a file can be decoded, but the image is damaged.
    """
    try:
        # A request takes longer than it takes to send a whole image.
        with io.BytesIO(read_bytes(path)) if is_in_bucket(path) else path.open("rb") as file:
            if not file.read(1):
                return "empty"
            file.seek(0)
            with Image.open(file) as image:
                end, distance = _ENDS.get(image.format or "", (b"", 0))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - distance))
            if end and end in file.read():
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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error).partition("\n")[0]
    return None
