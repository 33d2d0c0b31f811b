"""Writing to a disk that may be full, slow, gone for a moment, or another run's."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from se_flax.errors import StorageError, UserError

# Seconds to wait before what could not be written is tried again.
DELAYS = (1.0, 4.0, 16.0)
_BEAT_SECONDS = 5.0


def persistently(
    write: Callable[[], None], what: str, errors: tuple[type[Exception], ...] = (OSError,)
) -> None:
    """Calls a function that writes, again after a while if it could not.

    Args:
        write: the function; may be called several times.
        what: is written, for messages.
        errors: what it may raise.

    Raises:
        StorageError: if it still cannot after `DELAYS`.
    """
    for delay in (*DELAYS, None):
        try:
            return write()
        except errors as error:
            reason = reason_of(error)
            if delay is None:
                raise StorageError(
                    f"cannot write {what}: {reason}; earlier checkpoints are intact, and once it "
                    "can be written the same command goes on from the newest"
                ) from error
        print(
            f"cannot write {what}: {reason}; trying again in {delay:g} s",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(delay)


def reason_of(error: BaseException) -> str:
    """Returns in one line why a library could not read or write."""
    cause: BaseException | None = error
    while cause is not None:  # Orbax wraps what the system said
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    for number in (28, 30, 122, 27, 2, 13, 5):  # TensorStore tells it in words only
        if os.strerror(number) in text:
            return os.strerror(number)
    return text.partition(" [")[0][:200] or type(error).__name__


def write_json(path: pathlib.Path, value: Any, indent: int = 2) -> None:
    """Writes a file of JSON, all or nothing."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file, all or nothing, also if the power is cut."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(text)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync(path: pathlib.Path) -> None:
    """Waits until a power cut would not undo what was done to a file, or to a folder's names."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some take no folders
            raise
    finally:
        os.close(file)


class AppendedFile:
    """A file that records are appended to, each wholly or not at all.

    Args:
        path: of the file; made if it does not exist.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = path.open("ab", buffering=0)  # each record reaches the file at once

    def append(self, record: bytes) -> None:
        """Appends a record.

        Raises:
            OSError: if it cannot be written, or the file was removed; it is then as before.
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
        """Waits until a power cut would not undo what was appended."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class WorkdirLock:
    """While entered, no other run may write to the workdir.

    The file `lock` is locked by the operating system, which lets go of it when the process ends,
    however that happens. Not all file systems pass such locks on to other hosts, so its holder
    also counts up a number in the file: before a lock that another host seems to have left is
    taken, that number is watched for a while.

    Args:
        workdir: the run's folder; made if it does not exist.
        beat_seconds: how often the number is counted up.

    Raises:
        UserError: on entering, if another run holds the lock, or the folder is not to be had.
    """

    def __init__(self, workdir: pathlib.Path, beat_seconds: float = _BEAT_SECONDS):
        self._path = workdir / "lock"
        self._beat_seconds = beat_seconds
        self._ended = threading.Event()
        self._file = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"results cannot be written to {self._path.parent}: {reason_of(error)}; give "
                "another --workdir"
            ) from error
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        self._clear()
        self._write(0)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._clear()
        os.close(self._file)

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(self._held_by(self._read())) from None
        holder = self._read()
        if holder and holder.get("host") != socket.gethostname():
            print(f"waiting to see whether the run on {holder.get('host')} lives", flush=True)
            time.sleep(3 * self._beat_seconds)
            if self._read() != holder:
                raise UserError(self._held_by(holder))

    def _held_by(self, holder: dict[str, Any]) -> str:
        who = "another run"
        if holder:
            who = f"process {holder.get('process')} on {holder.get('host')}"
        return (
            f"{self._path.parent} is being written to by {who}; wait for it, stop it, or give "
            "another --workdir"
        )

    def _read(self) -> dict[str, Any]:
        """Returns what the holder wrote; nothing if it let go, or was just writing it."""
        try:
            value = json.loads(self._path.read_text())
        except (ValueError, OSError):
            return {}
        return value if isinstance(value, dict) else {}

    def _clear(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)

    def _write(self, beat: int) -> None:
        holder = {"host": socket.gethostname(), "process": os.getpid(), "beat": beat}
        with contextlib.suppress(OSError):  # a full disk is for what writes results to tell
            os.pwrite(self._file, (json.dumps(holder) + "\n").encode(), 0)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(self._beat_seconds):
            beat += 1
            self._write(beat)
