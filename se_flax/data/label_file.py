"""Images whose classes are in a CSV file, not in the names of their folders.

The file is UTF-8 text with commas between the columns, and its first row names them:

- `file`: path of an image, relative to the folder of the images.
- `split`, which may be missing: `train` or `val`. If it is missing, the path of each image must
  begin with `train/` or `val/`.
- and then either `class`, the one class of the image;
- or `classes`, its classes with a separator between them (by default a semicolon), or nothing if it
  has none;
- or a column for each class, with its name, which is 1 for the images that have it and 0 for the
  others.

    file,split,classes
    001.jpg,train,cat;dog
    002.tif,val,

Names of classes are sorted, unless each has a column: then they are in the order of the columns.
Spaces around a value are ignored. Images are in the order of the rows.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from se_flax.data.folders import ImageFolder
from se_flax.errors import UserError, nearest
from se_flax.runtime.paths import Path, is_in_bucket, read_bytes, to_path

_SPLITS = ("train", "val")


def label_path(folder: Path, file: str | os.PathLike[str]) -> Path:
    """Returns the path of a file with labels, which is in the images' folder if it is relative."""
    path = to_path(file)
    return path if is_in_bucket(path) or path.is_absolute() else folder / os.fspath(path)


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """The rows of a CSV file with labels.

    Attributes:
        path: of the file.
        multi_label: whether an image can have several classes, or none.
        class_names: names of the classes, in the order of the labels.
        files: path of each image, relative to the folder of the images.
        splits: "train" or "val" for each image, None where the file does not say it.
        labels: class of each image, or uint8 [n, classes]: 1 for its classes, 0 for the others.
    """

    path: Path
    multi_label: bool
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    splits: tuple[str | None, ...]
    labels: Int[np.ndarray, " n"] | UInt8[np.ndarray, "n classes"]

    @classmethod
    def read(
        cls, path: Path, separator: str = ";", class_names: Sequence[str] | None = None
    ) -> "LabelFile":
        """Reads a file.

        Args:
            path: of the file.
            separator: character between the classes of an image.
            class_names: names of the classes, in order, if they are known; no others may occur.

        Raises:
            UserError: if the file cannot be read or has a row that cannot be used; the message has
                the number of its line.
        """
        header, rows = _rows(path)
        columns = [name for name in header if name not in ("file", "split")]
        files = [row[header.index("file")] for _, row in rows]
        splits = [_split(path, line, row, header) for line, row in rows]
        _check_once(path, rows, files)
        cells = [[row[header.index(name)] for name in columns] for _, row in rows]
        lines = [line for line, _ in rows]
        if columns == ["class"]:
            named = [[cell] for (cell,) in cells]
        elif columns == ["classes"]:
            named = [[x.strip() for x in cell.split(separator)] for (cell,) in cells]
            named = [[] if own == [""] else own for own in named]
        else:
            named = [_chosen(path, *each, columns) for each in zip(lines, cells, strict=True)]
            class_names = columns if class_names is None else class_names
        names = sorted({x for own in named for x in own}) if class_names is None else class_names
        known = {name: place for place, name in enumerate(names)}
        places = [_places(path, *each, known) for each in zip(lines, named, strict=True)]
        several = columns != ["class"]
        labels = np.zeros((len(places), len(names)), np.uint8)
        for label, own in zip(labels, places, strict=True):
            label[own] = 1
        if not several:
            labels = np.array(places).reshape(-1)
        return cls(path, several, tuple(names), tuple(files), tuple(splits), labels)

    def images(
        self, folder: Path, split: str | None = None, exif_orientation: bool = False
    ) -> ImageFolder:
        """Returns the images of a split, or all.

        Args:
            folder: of the images.
            split: "train" or "val"; None for the images of all rows.
            exif_orientation: whether to turn images as their EXIF orientation says.

        Raises:
            UserError: if there are none, or the file does not say of which split an image is.
        """
        places = range(len(self.files))
        if split is not None:
            if None in self.splits:
                file = self.files[self.splits.index(None)]
                raise UserError(
                    f'{self.path} does not say whether "{file}" is for training; add a column '
                    '"split" with train or val, or put the images in the folders train and val'
                )
            places = [i for i in places if self.splits[i] == split]
        if not places:
            raise UserError(
                f'{self.path} has no images for the split "{split}"; its column "split", or the '
                "folder of a file, must be train for some images and val for others"
            )
        labels = self.labels[list(places)]
        return ImageFolder(
            folder,
            self.class_names,
            tuple(folder / self.files[i] for i in places),
            labels if self.multi_label else tuple(labels.tolist()),
            upright=exif_orientation,
        )

    def check(self, multi_label: bool) -> None:
        """Raises `UserError` unless `config.dataset.multi_label` fits the columns of the file."""
        if self.multi_label and not multi_label:
            raise UserError(
                f"{self.path} can give an image several classes; set "
                'config.dataset.multi_label=True and config.loss="bce", or, if each image has one '
                'class, put it in a column "class"'
            )
        if multi_label and not self.multi_label:
            raise UserError(
                f'{self.path} has a column "class", one for each image, but '
                'config.dataset.multi_label=True; name the column "classes", or set it to False'
            )


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the names of the columns, and each row that is not empty with its line."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; give a CSV file that exists") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; give a CSV file in UTF-8") from error
    reader = csv.reader(io.StringIO(text))
    rows = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is no CSV: {error}") from error
    if len(rows) < 2:
        raise UserError(f"{path} is empty; give a row of column names, and a row for each image")
    (_, header), *rows = rows
    _check_header(path, header)
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {line} has {len(row)} values, but there are {len(header)} columns; "
                "give one for each"
            )
    return header, rows


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    columns = [name for name in header if name not in ("file", "split")]
    if "file" not in header or not columns or "" in header or twice:
        raise UserError(
            f"{path} has the columns {', '.join(header)}; its first row must name the column "
            '"file", perhaps "split", and "class", "classes" or one for each class, each once'
        )
    mixed = {"class", "classes"} & set(columns)
    if mixed and len(columns) > 1:
        raise UserError(
            f'{path} has the column "{sorted(mixed)[0]}" and others ({", ".join(columns)}); give '
            "either that one, or one for each class"
        )


def _split(path: Path, line: int, row: list[str], header: list[str]) -> str | None:
    if "split" not in header:
        first, slash, _ = row[header.index("file")].partition("/")
        return first if slash and first in _SPLITS else None
    split = row[header.index("split")]
    if split not in _SPLITS:
        raise UserError(f'{path}, line {line}: the split must be train or val, not "{split}"')
    return split


def _check_once(
    path: Path,
    rows: list[tuple[int, list[str]]],
    files: Sequence[str],
) -> None:
    """Raises `UserError` if a row names no file, or one that was named before."""
    seen: set[str] = set()
    for (line, _), file in zip(rows, files, strict=True):
        if not file or file in seen:
            what = f'"{file}" was named before; give each file once' if file else "no file is named"
            raise UserError(f"{path}, line {line}: {what}")
        seen.add(file)


def _chosen(path: Path, line: int, cells: list[str], columns: list[str]) -> list[str]:
    """Returns the names of the columns that are 1."""
    for cell, name in zip(cells, columns, strict=True):
        if cell not in ("0", "1"):
            raise UserError(
                f'{path}, line {line}: the column of the class "{name}" must be 0 or 1, not '
                f'"{cell}"; for other columns than one for each class, name it "class" or "classes"'
            )
    return [name for cell, name in zip(cells, columns, strict=True) if cell == "1"]


def _places(path: Path, line: int, own: Sequence[str], known: dict[str, int]) -> list[int]:
    """Returns the places of an image's classes among all."""
    if "" in own:
        raise UserError(f"{path}, line {line}: the name of a class is empty; give one")
    for name in own:
        if name not in known:
            raise UserError(
                f'{path}, line {line}: there is no class "{name}"{nearest(name, known)}; known '
                f"classes are {', '.join(list(known)[:20])}"
            )
    return [known[name] for name in own]
