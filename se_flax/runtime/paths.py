"""Paths of local files, and of objects in Google Cloud Storage (gs://bucket/...)."""

import errno
import hashlib
import os
import pathlib
import re
import shutil
from typing import TYPE_CHECKING

from etils import epath
from etils.epath import gpath

from se_flax.errors import UserError
from se_flax.runtime.compiler import cache_dir

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


def resolved(path: Path) -> Path:
    """Returns a path without symbolic links or "..", of which buckets have none."""
    return path if is_in_bucket(path) else path.resolve()


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file; in a bucket, with a single request."""
    if not is_in_bucket(path):
        return path.read_bytes()
    from se_flax.runtime import gcs

    return gcs.files().cat_file(str(path))


def files_below(folder: epath.Path) -> list[epath.Path]:
    """Returns the objects of a bucket whose names begin with a folder's, sorted."""
    from se_flax.runtime import gcs

    return [epath.Path(f"gs://{name}") for name in sorted(gcs.files().find(str(folder)))]


def local_copy(path: Path) -> pathlib.Path:
    """Returns a local file or folder with the content of another one, which may be in a bucket.

    What is in a bucket is copied to the cache (`compiler.cache_dir`), once for each content.

    Raises:
        UserError: if there is no room for it.
        OSError: if it cannot be read or written.
    """
    if not is_in_bucket(path):
        return path
    from se_flax.runtime import gcs

    found = gcs.files().find(str(path), detail=True)
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    versions = sorted((name, each["size"], each.get("etag")) for name, each in found.items())
    key = hashlib.sha256(repr(versions).encode()).hexdigest()[:32]
    target = cache_dir() / "buckets" / key / path.name
    if target.exists():
        return target
    partial = target.with_name(f"{path.name}.{os.getpid()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    size, free = (
        sum(each["size"] for each in found.values()),
        shutil.disk_usage(partial.parent).free,
    )
    if size > free:
        raise UserError(
            f"{path} has {size / 1e9:.1f} GB and must be copied to {partial.parent}, where there "
            f"is room for {free / 1e9:.1f} GB; set XDG_CACHE_HOME to a folder on a larger disk"
        )
    print(f"copying {path} ({size / 1e6:,.1f} MB) to {target}", flush=True)
    gcs.files().get(str(path), str(partial), recursive=path.is_dir())
    partial.rename(target)
    return target


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
