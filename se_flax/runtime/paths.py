"""Paths of local files, and of objects in Google Cloud Storage (gs://bucket/...)."""

import os
import pathlib
import re
from typing import TYPE_CHECKING

from etils import epath
from etils.epath import gpath

from se_flax.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

# A local path is a pathlib.Path and a path in a bucket an epath.Path, which has the same methods.
Path = pathlib.Path | epath.Path

_SCHEME = re.compile(r"([a-z0-9]+):/{1,2}", re.IGNORECASE)
_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]*[a-z0-9]")


def to_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a local file or folder ("~" is the home), or of one in a bucket.

    Raises:
        UserError: if it is a URL but not one of a bucket, or packages for buckets are missing.
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return pathlib.Path(text).expanduser()
    inside = text[scheme.end() :]
    if scheme[1] != "gs" or not _BUCKET.fullmatch(inside.partition("/")[0]):
        raise UserError(
            f'"{text}" is neither a local path nor one in Google Cloud Storage; give the latter as '
            "gs://BUCKET/FOLDER"
        )
    _prepare(text)
    return epath.Path(f"gs://{inside}")


def is_in_bucket(path: Path) -> "TypeIs[epath.Path]":
    """Whether a path of `to_path` is in a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> Path:
    """Returns a path that does not depend on the current folder."""
    return path if is_in_bucket(path) else path.absolute()


def _prepare(path: str) -> None:
    """Makes epath, and with it Orbax and TFDS, use se_flax's access to buckets."""
    try:
        from se_flax.runtime import gcs
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is in Google Cloud Storage, which needs the package {error.name}; install it "
            'with pip install "se_flax[gcs]" (in a clone: pip install -r requirements-gcs.txt)'
        ) from error
    gcs.register()
    # If TensorFlow is installed, epath would use it: it takes seconds to import, and has errors of
    # its own. epath may already have looked, and remembered.
    os.environ["EPATH_USE_TF"] = "false"
    if found := getattr(gpath, "_is_tf_installed", None):
        found.cache_clear()
