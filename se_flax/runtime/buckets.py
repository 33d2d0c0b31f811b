"""What a bucket does differently from a disk: objects are replaced as a whole, on a condition."""

import json
import time
from typing import Any

from etils import epath

from se_flax.runtime.terminal import say_error

# Orbax writes this object last. A checkpoint without it is half written.
COMMITTED = "commit_success.txt"
# Longest time, in seconds, that a record is only in memory if no checkpoint is saved before.
_FLUSH_SECONDS = 120.0


class AppendedObject:
    """An object to which records are appended, as to a file.

    Objects cannot be appended to. The object is therefore written anew by `sync`, which precedes
    each checkpoint, and by the first record after every two minutes.

    Args:
        path: path of the object; its content is kept if it exists.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._content = bytearray(path.read_bytes() if path.exists() else b"")
        self._written = len(self._content)
        self._flushed = time.monotonic()

    def append(self, record: bytes) -> None:
        """Appends a record.

        Raises:
            OSError: if it cannot be written now. The record is then not appended.
        """
        before = len(self._content)
        self._content += record
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            try:
                self.sync()
            except OSError:
                del self._content[before:]
                raise

    def sync(self) -> None:
        """Writes the object, if records were appended since it was last written."""
        if self._written < len(self._content) or not self._content:
            self._path.write_bytes(bytes(self._content))
        self._written, self._flushed = len(self._content), time.monotonic()

    def close(self) -> None:
        """Writes the object; prints an error if that fails."""
        try:
            self.sync()
        except OSError as error:
            say_error(f"the last rows of {self._path} are lost: {error.strerror or error}")


def generation_of(path: epath.Path) -> int:
    """Returns the number of an object's version, 0 if there is none."""
    try:
        return int(_request("GET", "b/{}/o/{}", path)["generation"])
    except FileNotFoundError:
        return 0


def replace_generation(path: epath.Path, value: Any, generation: int) -> int:
    """Replaces an object, if it still has a generation; 0 means that there must be none.

    Args:
        path: of the object.
        value: the new content, which JSON can hold.
        generation: the expected generation.

    Returns:
        The new generation.

    Raises:
        FileExistsError: if the object has another generation. As a request whose answer was lost
            is repeated, the other may be of this call.
        OSError: if the bucket cannot be reached or written to.
    """
    from se_flax.runtime import gcs

    bucket, key = _bucket_and_key(path)
    files = gcs.files()
    answer: Any = files.call(
        "POST",
        files.base.replace("/storage/v1/", "/upload/storage/v1/b/{}/o"),
        bucket,
        uploadType="media",
        name=key,
        ifGenerationMatch=generation,
        data=(json.dumps(value) + "\n").encode(),
        headers={"Content-Type": "text/plain"},
        json_out=True,
    )
    return int(answer["generation"])


def remove_generation(path: epath.Path, generation: int) -> None:
    """Removes an object if it still has a generation; raises as `replace_generation` does."""
    _request("DELETE", "b/{}/o/{}", path, ifGenerationMatch=generation)


def _request(method: str, address: str, path: epath.Path, **options: Any) -> Any:
    from se_flax.runtime import gcs

    bucket, key = _bucket_and_key(path)
    is_read = method == "GET"
    return gcs.files().call(method, address, bucket, key, json_out=is_read, **options)


def _bucket_and_key(path: epath.Path) -> tuple[str, str]:
    bucket, _, key = str(path).removeprefix("gs://").partition("/")
    return bucket, key


def move_objects(folder: epath.Path, target: epath.Path) -> None:
    """Moves all objects of a folder: copies them, and then removes them."""
    from se_flax.runtime import gcs

    files = gcs.files()
    files.copy(str(folder), str(target), recursive=True)
    files.rm(str(folder), recursive=True)
