"""Labelled images in a folder of class folders."""

import pathlib

from se_flax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class ImageFolder:
    """The images in `directory/<class>/`, read one at a time.

    Entry i is a dictionary of `image`, the file's bytes, and `label`, the place of its class in
    `class_names`.

    Args:
        directory: holds a folder a class.
        class_names: the folders' names, each class at its place; by default all there are,
            sorted. Folders may be missing, but none may be there that is not named.

    Raises:
        UserError: if there is no such directory, no image, or a folder of another name.
    """

    def __init__(self, directory: str | pathlib.Path, class_names: tuple[str, ...] | None = None):
        directory = pathlib.Path(directory).expanduser()
        if not directory.is_dir():
            raise UserError(f"there is no folder {directory}")
        folders = sorted(path.name for path in directory.iterdir() if path.is_dir())
        self.class_names = tuple(folders) if class_names is None else class_names
        places = {name: i for i, name in enumerate(self.class_names)}
        unknown = [name for name in folders if name not in places]
        if unknown:
            raise UserError(f"{directory}/{unknown[0]} is not the folder of a known class")
        self.paths = [
            path
            for folder in folders
            for path in sorted((directory / folder).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.paths:
            raise UserError(
                f"{directory} has no images; they are looked for in {directory}/<class>/, "
                f"with one of the endings {', '.join(SUFFIXES)}"
            )
        depth = len(directory.parts)
        self.labels = [places[path.parts[depth]] for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, bytes | int]:
        return {"image": self.paths[i].read_bytes(), "label": self.labels[i]}
