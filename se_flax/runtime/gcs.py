"""Access to Google Cloud Storage: gcsfs without a cache, and with system errors.

Importing this file needs the package gcsfs. `se_flax.runtime.paths` imports it when it is needed.
"""

import contextlib
import errno

import aiohttp
import fsspec
import google.auth.exceptions
from fsspec.asyn import sync_wrapper
from gcsfs.core import GCSFileSystem
from gcsfs.retry import ChecksumError, HttpError

from se_flax.runtime.buckets import COMMITTED

# Without an answer for this long, a request has failed. gcsfs repeats a failed request five times,
# for half a minute in total; answers that mean overload (429, 5xx) and lost connections, too.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
_ERRORS = (HttpError, aiohttp.ClientError, google.auth.exceptions.GoogleAuthError, ChecksumError)


class Buckets(GCSFileSystem):
    """All buckets, as a file system without a cache: other libraries write to them as well."""

    def __init__(self, *args, **options):
        options |= {"use_listings_cache": False, "requests_timeout": _TIMEOUT}
        super().__init__(*args, **options)

    async def _request(self, method, path, *args, **options):
        """Raises every failure as an `OSError`."""
        try:
            return await super()._request(method, path, *args, **options)
        except OSError:
            raise
        except _ERRORS as error:
            raise OSError(errno.EIO, f"Google Cloud Storage: {_message(error)}") from error

    async def _rm(self, path, recursive=False, maxdepth=None, batchsize=100):
        """Removes files; if those are a checkpoint, it looks half written until all are gone."""
        if recursive and isinstance(path, str):
            with contextlib.suppress(FileNotFoundError):
                await self._rm_file(f"{path.rstrip('/')}/{COMMITTED}")
        return await super()._rm(path, recursive, maxdepth, batchsize)

    rm = sync_wrapper(_rm)


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if getattr(error, "code", None) in (401, "401"):
        text += "; log in with gcloud auth application-default login"
    return text


def register() -> None:
    """Makes fsspec, and so epath, Orbax and TFDS, use `Buckets`."""
    fsspec.register_implementation("gcs", Buckets, clobber=True)
    fsspec.register_implementation("gs", Buckets, clobber=True)


def files() -> Buckets:
    """Returns the file system."""
    register()
    return fsspec.filesystem("gcs", finalize_on_close=True)
