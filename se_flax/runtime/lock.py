"""One writer per workdir."""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any, Self

import filelock

from se_flax.errors import UserError
from se_flax.runtime.storage import reason_of

_BEAT_SECONDS = 5.0


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
        who = "another run"
        if holder:
            who = f"process {holder.get('process')} on {holder.get('host')}"
        return (
            f"{self._path.parent} is being written to by {who}; wait for it, stop it, or give "
            "another --workdir"
        )

    def _read(self) -> dict[str, Any]:
        """Returns what the holder wrote; {} if there is none, or it is writing at this moment."""
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
        with contextlib.suppress(OSError):  # if the disk is full, writing results reports it
            os.pwrite(self._file, (json.dumps(holder) + "\n").encode(), 0)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(self._beat_seconds):
            beat += 1
            self._write(beat)
