"""One writer per workdir, on a disk or in a bucket."""

import contextlib
import hashlib
import json
import os
import pathlib
import socket
import tempfile
import threading
import time
import uuid
from typing import Any, Self

import filelock
from etils import epath

from se_flax.errors import UserError
from se_flax.runtime.buckets import generation_of, remove_generation, replace_generation
from se_flax.runtime.paths import Path, is_in_bucket
from se_flax.runtime.storage import persistently, reason_of

_BEAT_SECONDS = 5.0
_BEAT_SECONDS_IN_BUCKET = 15.0


class WorkdirLock:
    """In this context, no other run can write to the workdir.

    The operating system locks the file `lock`, and releases it when the process ends, however
    that happens. Some file systems do not show such locks to other hosts. Therefore the holder
    also increments a number in the file, its heartbeat. A run that finds a holder on another host
    in the file takes the lock only if the heartbeat does not change for a while.

    Args:
        workdir: the run's folder; created if it does not exist.
        beat_seconds: the time between two heartbeats.

    Raises:
        UserError: on entering, if another run holds the lock, or the folder cannot be written to.
    """

    def __init__(self, workdir: pathlib.Path, beat_seconds: float = _BEAT_SECONDS):
        self._path = workdir / "lock"
        self._beat_seconds = beat_seconds
        # A soft lock, the fallback, would remain after a run is killed.
        self._lock = filelock.UnixFileLock(self._path, thread_local=False, fallback_to_soft=False)
        self._file = -1
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise UserError(self._held_by(self._read())) from None
        except OSError as error:
            raise UserError(
                f"results cannot be written to {self._path.parent}: {reason_of(error)}; give "
                "another --workdir"
            ) from error
        try:
            self._watch_other_host()
            self._file = os.open(self._path, os.O_RDWR)
        except BaseException:
            self._lock.release()
            raise
        self._clear()
        self._write(beat=0)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._clear()
        os.close(self._file)
        self._lock.release()

    def check(self) -> None:
        """Does nothing: the operating system keeps the lock until the process ends."""

    def _watch_other_host(self) -> None:
        """Raises `UserError` if the file names a holder on another host that is still alive."""
        holder = self._read()
        if not holder or holder.get("host") == socket.gethostname():
            return
        seconds = 3 * self._beat_seconds
        print(f"checking for {seconds:g} s if the run on {holder.get('host')} is alive", flush=True)
        time.sleep(seconds)
        if self._read() != holder:
            raise UserError(self._held_by(holder))

    def _held_by(self, holder: dict[str, Any]) -> str:
        return _held_by(holder, self._path.parent)

    def _read(self) -> dict[str, Any]:
        return _read(self._path)

    def _clear(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)

    def _write(self, beat: int) -> None:
        holder = {"host": socket.gethostname(), "process": os.getpid(), "beat": beat}
        with contextlib.suppress(OSError):  # if the disk is full, writing results reports it
            os.pwrite(self._file, (json.dumps(holder) + "\n").encode(), 0)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(self._beat_seconds):
            beat += 1
            self._write(beat)


class BucketLock:
    """In this context, no other run can write to a workdir in a bucket.

    The holder keeps the object `lock` in the workdir, and rewrites it every few seconds. It is
    created on the condition that there is none, and rewritten on the condition that nobody else
    has done so. A run that finds another one's object takes it over if it is not rewritten for a
    while. It does so at once if the other run was on this machine and has ended: each run also
    locks a local file, and the object holds that file's content, a random name.

    Args:
        workdir: the run's folder.
        beat_seconds: the time between two heartbeats.
        name: name of the object.

    Raises:
        UserError: on entering, if another run holds the lock, or the bucket cannot be written to.
    """

    def __init__(
        self,
        workdir: epath.Path,
        beat_seconds: float = _BEAT_SECONDS_IN_BUCKET,
        name: str = "lock",
    ):
        self._workdir, self._path = workdir, workdir / name
        self._beat_seconds = beat_seconds
        self._local = _local_lock(self._path)
        self._me: dict[str, Any] = {}
        self._generation = 0
        self._renewed = 0.0
        self._taken_over = False
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        try:
            self._local.acquire(blocking=False)
        except filelock.Timeout:
            raise UserError(_held_by(_read(self._path), self._workdir)) from None
        try:
            self._acquire()
        except UserError:
            self._local.release()
            raise
        except OSError as error:
            self._local.release()
            raise UserError(
                f"results cannot be written to {self._workdir}: {reason_of(error)}; give another "
                "--workdir"
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if not self._taken_over:
            with contextlib.suppress(OSError):
                remove_generation(self._path, self._generation)
        self._local.release()

    def check(self) -> None:
        """Makes sure that this run still holds the lock. Call it before writing.

        Raises:
            UserError: if another run has taken it over, because this one could not renew it.
            StorageError: if this run cannot renew it now.
        """
        if time.time() - self._renewed > 2 * self._beat_seconds:  # it was suspended, or cut off
            persistently(self._renew, str(self._path))
        if self._taken_over:
            raise UserError(
                f"{_held_by(_read(self._path), self._workdir)}; it took over because this run "
                "could not renew its lock for a while"
            )

    def _acquire(self) -> None:
        name = _name_in(pathlib.Path(self._local.lock_file))
        self._me = {"host": socket.gethostname(), "process": os.getpid(), "run": uuid.uuid4().hex}
        self._me["local_lock"] = name
        self._generation = generation_of(self._path)
        holder = _read(self._path) if self._generation else {}
        if self._generation and holder.get("local_lock") != name:
            seconds = 3 * self._beat_seconds
            who = f"the run on {holder.get('host')}"
            print(f"checking for {seconds:g} s if {who} is alive", flush=True)
            time.sleep(seconds)
        self._renew()
        if self._taken_over:
            raise UserError(_held_by(_read(self._path) or holder, self._workdir))

    def _renew(self) -> None:
        """Rewrites the object, unless another run has done so."""
        with self._renewing:
            while not self._taken_over:
                now = time.time()
                try:
                    self._generation = replace_generation(self._path, self._me, self._generation)
                except FileExistsError:
                    # Unless it was removed, or rewritten by a request whose answer was lost.
                    self._generation = generation_of(self._path)
                    is_mine = _read(self._path).get("run") == self._me["run"]
                    self._taken_over = bool(self._generation) and not is_mine
                else:
                    self._renewed = now
                    return

    def _beat(self) -> None:
        while not self._taken_over and not self._ended.wait(self._beat_seconds):
            with contextlib.suppress(OSError):  # `check` tries again, and reports it
                self._renew()


Lock = WorkdirLock | BucketLock


def lock_of(workdir: Path) -> Lock:
    """Returns the lock of a workdir, to be entered as a context."""
    return BucketLock(workdir) if is_in_bucket(workdir) else WorkdirLock(workdir)


def _local_lock(path: epath.Path) -> filelock.UnixFileLock:
    """Returns the lock of a file on this machine that stands for an object."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"se_flax_locks_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    return filelock.UnixFileLock(folder / name, thread_local=False, fallback_to_soft=False)


def _name_in(file: pathlib.Path) -> str:
    """Returns the name in a local file, which is written at the first call."""
    name = file.read_text()
    if not name:
        name = uuid.uuid4().hex
        file.write_text(name)
    return name


def _held_by(holder: dict[str, Any], workdir: Path) -> str:
    who = "another run"
    if holder:
        who = f"process {holder.get('process')} on {holder.get('host')}"
    return (
        f"{workdir} is being written to by {who}; wait for it, stop it, or give another --workdir"
    )


def _read(path: Path) -> dict[str, Any]:
    """Returns what the holder wrote; {} if there is none, or it is writing at this moment."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError):
        return {}
    return value if isinstance(value, dict) else {}
