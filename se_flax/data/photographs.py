"""Photographs of any size and format: found in folders, and read as a person sees them.

Images of a data set are read by `data.images.decode`, which ignores transparency and, unless it is
told otherwise, EXIF orientation, as the evaluations of published weights do. For the rest, both
give the same pixels.
"""

import os
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from se_flax.data.folders import SUFFIXES, images_below
from se_flax.data.images import eight_bits, pillow_image
from se_flax.errors import UserError
from se_flax.runtime.paths import Path, read_bytes, to_path

# What is looked for in folders. HEIC cannot be read, but is not passed over in silence.
PHOTOGRAPHS = (*SUFFIXES, ".heic", ".heif")


def find_photographs(
    places: Iterable[str | os.PathLike[str]],
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Lists photographs.

    Args:
        places: files, of which any is taken for a photograph, and folders, which are searched for
            files with one of the suffixes `PHOTOGRAPHS`, with all folders below them. Hidden files
            and folders are passed over.

    Returns:
        The photographs, in the order of `places` and sorted within a folder; and folders that are
        no use, each with the reason.

    Raises:
        UserError: if there is no such file or folder, or there are no photographs at all.
    """
    found, useless = [], []
    places = [to_path(place) for place in places]
    for place in places:
        if place.is_dir():
            photographs, problems = images_below(place, PHOTOGRAPHS)
            found += photographs
            useless += [(place, problem) for problem in problems]
            if not photographs and not problems:
                useless.append((place, "it has no photographs"))
        elif place.exists():
            found.append(place)
        else:
            raise UserError(f"there is no file or folder {place}; give photographs that exist")
    if not found:
        raise UserError(
            f"there are no photographs in {', '.join(map(str, places))}; give files, or folders "
            f"with files that end in {', '.join(PHOTOGRAPHS)}"
        )
    return found, useless


def read_photograph(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a photograph as RGB, upright.

    Pillow reads it, in any of its formats. It is turned as its EXIF orientation says. Transparent
    parts are put on white, grey levels of more than 8 bits are scaled to 8 bits (see
    `data.images.eight_bits`), and of an animation, the first image is taken. A colour profile (ICC)
    is ignored.

    Args:
        path: of the file, on a disk or in a bucket.

    Raises:
        UserError: if it cannot be read; the message says why, without the path.
    """
    try:
        content = read_bytes(to_path(path))
    except OSError as error:
        raise UserError(error.strerror or str(error)) from error
    if not content:
        raise UserError("it is empty")
    return np.asarray(_as_rgb(eight_bits(pillow_image(content, upright=True))))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), upper).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
