"""Writing to a disk or bucket that may be full, slow or absent for a while.

What a bucket does differently is decided here and in `lock`, and done in `buckets`.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import tenacity

from se_flax.errors import StorageError
from se_flax.runtime.buckets import AppendedObject, move_objects
from se_flax.runtime.paths import Path, is_in_bucket
from se_flax.runtime.terminal import say_error

# Seconds to wait before each further attempt to write.
DELAYS = (1.0, 4.0, 16.0)
# System errors to look for in TensorStore's messages, the likeliest first.
_REASONS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.EACCES)
_REASONS += (errno.EIO,)


def persistently(
    write: Callable[[], None], what: str, errors: tuple[type[Exception], ...] = (OSError,)
) -> None:
    """Calls a function that writes. While it fails, waits for the next of `DELAYS` and tries again.

    Args:
        write: the function; may be called several times.
        what: names what it writes, for messages.
        errors: the types of error after which to try again; any other is raised at once.

    Raises:
        StorageError: if the last attempt fails as well.
    """

    def say(state: tenacity.RetryCallState) -> None:
        reason, delay = reason_of(state.outcome.exception()), state.next_action.sleep
        say_error(f"cannot write {what}: {reason}; trying again in {delay:g} s")

    def give_up(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception()
        raise StorageError(
            f"cannot write {what}: {reason_of(error)}; earlier checkpoints are intact, and the "
            "same command continues from the newest once there is room and access"
        ) from error

    tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_chain(*map(tenacity.wait_fixed, DELAYS)),
        stop=tenacity.stop_after_attempt(len(DELAYS) + 1),
        before_sleep=say,
        retry_error_callback=give_up,
    )(write)


def reason_of(error: BaseException) -> str:
    """Returns one line that says why a library could not read or write."""
    cause: BaseException | None = error
    while cause is not None:  # Orbax wraps the system's error
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    for number in _REASONS:  # TensorStore's errors hold only the system's text
        if os.strerror(number) in text:
            return os.strerror(number)
    return text.partition(" [")[0][:200] or type(error).__name__


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Writes a JSON file atomically (see `write_text`)."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically (see `write_bytes`)."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: completely or not at all, even if the power is cut."""
    if is_in_bucket(path):
        path.write_bytes(content)
        return
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, as far as is known without trying."""
    return is_in_bucket(folder) or os.access(folder, os.W_OK)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents. In a bucket, there are only names that contain slashes."""
    if not is_in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)


def identity(folder: Path) -> tuple[int, int] | None:
    """Returns what distinguishes a folder from another of the same name; None in a bucket.

    Raises:
        OSError: if it is on a disk and does not exist.
    """
    if is_in_bucket(folder):
        return None
    status = folder.stat()
    return status.st_dev, status.st_ino


def move(folder: Path, target: Path) -> None:
    """Moves a folder; makes the target's parent if necessary."""
    if is_in_bucket(folder):
        move_objects(folder, target)
    else:
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)


def remove(folder: Path) -> None:
    """Removes a folder as far as possible, if it exists."""
    if not is_in_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        folder.rmtree(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes a folder and all that is in it to disk. In a bucket, all that is written is safe."""
    if not is_in_bucket(folder):
        for path in (*folder.rglob("*"), folder, folder.parent):
            sync(path)


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk, so that changes survive a power cut."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some systems cannot sync folders
            raise
    finally:
        os.close(file)


def open_to_append(path: Path) -> "AppendedFile | AppendedObject":
    """Opens a file to append records to it; creates it if it does not exist."""
    return AppendedObject(path) if is_in_bucket(path) else AppendedFile(path)


class AppendedFile:
    """A file to which records are appended, each completely or not at all.

    Args:
        path: path of the file; created if it does not exist.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = path.open("ab", buffering=0)  # each record reaches the file at once

    def append(self, record: bytes) -> None:
        """Appends a record.

        Raises:
            OSError: if it cannot be written, or the file was removed. The file is then unchanged.
        """
        status = os.fstat(self._file.fileno())
        if not status.st_nlink:
            raise FileNotFoundError(2, os.strerror(2), str(self._path))
        try:
            while record:
                record = record[self._file.write(record) :]
        except OSError:
            os.ftruncate(self._file.fileno(), status.st_size)
            raise

    def sync(self) -> None:
        """Flushes what was appended to disk, so that it survives a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
