"""Labelled images in a folder of class folders, and the check of their files."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from se_flax.data.images import decode
from se_flax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# What a whole file of a format ends with, and how far from the end that may be.
_ENDS = {"JPEG": (b"\xff\xd9", 64)}
_SHOWN = 20  # problems told of in a message


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images in `directory/<class>/`, read one at a time.

    Entry i is a dictionary of `image`, the file's bytes, and `label`, the place of its class in
    `class_names`.

    Attributes:
        directory: holds a folder a class.
        class_names: the folders' names, each class at its place.
        paths: of the images.
        labels: of the images.
        problems: what is wrong with folders, one sentence each.
    """

    directory: pathlib.Path
    class_names: tuple[str, ...]
    paths: tuple[pathlib.Path, ...]
    labels: tuple[int, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, directory: str | pathlib.Path, class_names: tuple[str, ...] | None = None
    ) -> "ImageFolder":
        """Lists a directory.

        Args:
            directory: holds a folder a class.
            class_names: the classes, in order; by default all folders there are, sorted.
                Folders may be missing, but none may be there that is not named.

        Raises:
            UserError: if there is no such directory, no image, or a folder of another name.
        """
        directory = pathlib.Path(directory).expanduser()
        if not directory.is_dir():
            raise UserError(f"there is no folder {directory}")
        folders = sorted(
            path.name
            for path in directory.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
        class_names = tuple(folders) if class_names is None else tuple(class_names)
        unknown = [name for name in folders if name not in class_names]
        if unknown:
            raise UserError(
                f"{directory} has folders of no known class: {', '.join(unknown[:_SHOWN])}; known "
                f"are {', '.join(class_names[:_SHOWN])}"
            )
        paths, labels, problems = [], [], []
        for folder in folders:
            images, unreadable = _list_images(directory / folder)
            paths += images
            labels += [class_names.index(folder)] * len(images)
            problems += unreadable
            if not images and not unreadable:
                problems.append(f"{directory / folder} has no images")
        if not paths:
            raise UserError(
                f"{directory} has no images; they are looked for in {directory}/<class>/, "
                f"with one of the endings {', '.join(SUFFIXES)}"
            )
        return cls(directory, class_names, tuple(paths), tuple(labels), tuple(problems))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, bytes | int]:
        return {"image": self.paths[i].read_bytes(), "label": self.labels[i]}

    def describe(self, i: int) -> str:
        """Returns the path of an image."""
        return str(self.paths[i])

    def bad_images(self) -> Iterator[tuple[int, str]]:
        """Yields place and fault of each image that cannot be read, is empty or cut short."""
        with ThreadPoolExecutor() as pool:
            for i, fault in enumerate(pool.map(_fault, self.paths)):
                if fault:
                    yield i, fault

    def checked(self, skip_bad: bool) -> "ImageFolder":
        """Returns it without its bad images, or raises `UserError` if that is not wanted.

        Args:
            skip_bad: whether to leave out, and print, what cannot be used.
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
                f"{self.directory} holds what cannot be used: {shown}; mend or remove it, or "
                "leave it out with config.dataset.skip_bad=True"
            )
        print(f"left out {len(faults)} of {len(self)} images of {self.directory}: {shown}")
        kept = [i for i in range(len(self)) if i not in faults]
        if not kept:
            raise UserError(f"no image in {self.directory} can be read")
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in kept),
            labels=tuple(self.labels[i] for i in kept),
        )


def _list_images(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
    unreadable = []

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename} cannot be read ({error.strerror})")

    depth = len(folder.parts)
    paths = [
        pathlib.Path(directory, name)
        for directory, _, names in os.walk(folder, onerror=note)
        for name in names
        if name.lower().endswith(SUFFIXES)
        and not any(part.startswith(".") for part in (*pathlib.Path(directory).parts[depth:], name))
    ]
    return sorted(paths), unreadable


def _fault(path: pathlib.Path) -> str | None:
    """Returns what is wrong with an image file, or None.

    A JPEG is decoded only where it does not end as a whole one does, so that the check costs
    little; damage in the middle of one is not found, and decoded to something.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "empty"
            with Image.open(path) as image:
                end, distance = _ENDS.get(image.format or "", (b"", 0))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - distance))
            if end and end in file.read():
                return None
        with Image.open(path) as image:
            image.load()
        decode(path.read_bytes())
    except UserError as error:
        return str(error)
    except Image.UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error).partition("\n")[0]
    return None
