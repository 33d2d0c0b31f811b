import errno
import json
import os
import socket
import threading
import time

import pytest

from se_flax.errors import StorageError, UserError
from se_flax.runtime import storage
from se_flax.runtime.storage import AppendedFile, WorkdirLock, persistently, write_json


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(storage, "DELAYS", (0.0, 0.0, 0.0))


def test_what_fails_for_a_while_is_written_in_the_end(at_once, capsys):
    failures = iter([OSError(errno.ENOSPC, "No space left on device")] * 2)

    def write():
        for failure in failures:
            raise failure

    persistently(write, "a row")
    assert (
        capsys.readouterr().err.splitlines()
        == ["cannot write a row: No space left on device; trying again in 0 s"] * 2
    )


def test_what_keeps_failing_is_told_once_and_for_all(at_once, capsys):
    def write():
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(StorageError, match="cannot write a row: Read-only file system; earlier"):
        persistently(write, "a row")
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_another_kind_of_error_is_not_tried_again(at_once):
    def write():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        persistently(write, "a row")


def test_a_file_that_cannot_be_written_is_as_before(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(
        storage.pathlib.Path, "replace", lambda *_: storage.pathlib.Path("/nowhere").stat()
    )
    with pytest.raises(OSError, match="/nowhere"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_appended_wholly_or_not_at_all(tmp_path):
    path = tmp_path / "rows"
    file = AppendedFile(path)
    file.append(b"one\n")

    class HalfFull:
        """Takes two bytes, and then no more."""

        def __init__(self, file):
            self._file, self._taken = file, 0
            self.fileno, self.close = file.fileno, file.close

        def write(self, record):
            if self._taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self._taken = self._file.write(record[:2])
            return self._taken

    whole, file._file = file._file, HalfFull(file._file)
    with pytest.raises(OSError, match="No space"):
        file.append(b"two\n")
    assert path.read_bytes() == b"one\n"
    file._file = whole
    file.append(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.append(b"four\n")
    file.close()


def test_a_workdir_has_one_writer(tmp_path):
    with WorkdirLock(tmp_path / "run"):
        held = f"is being written to by process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(UserError, match=held), WorkdirLock(tmp_path / "run"):
            pass
    with WorkdirLock(tmp_path / "run"):
        pass


def test_a_lock_of_this_host_that_nobody_holds_is_taken_at_once(tmp_path):
    holder = {"host": socket.gethostname(), "process": 1, "beat": 7}
    (tmp_path / "lock").write_text(json.dumps(holder))
    begun = time.monotonic()
    with WorkdirLock(tmp_path, beat_seconds=10.0):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    assert time.monotonic() - begun < 10


def test_a_lock_that_another_host_left_is_taken_after_a_while(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"host": "far", "process": 1, "beat": 7}))
    with WorkdirLock(tmp_path, beat_seconds=0.05):
        assert json.loads((tmp_path / "lock").read_text())["host"] == socket.gethostname()


def test_a_lock_that_another_host_holds_is_not_taken(tmp_path):
    ended = threading.Event()

    def hold():  # where locks are not passed on, what it writes is all that there is to see
        beat = 0
        while not ended.wait(0.02):
            beat += 1
            text = json.dumps({"host": "far", "process": 1, "beat": beat})
            (tmp_path / "partial").write_text(text)
            (tmp_path / "partial").replace(tmp_path / "lock")

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        while not (tmp_path / "lock").exists():
            time.sleep(0.01)
        lock = WorkdirLock(tmp_path, beat_seconds=0.2)
        with pytest.raises(UserError, match="by process 1 on far"), lock:
            pass
    finally:
        ended.set()
        holder.join()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    lock = WorkdirLock(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"cannot be written to .*Not a directory"), lock:
        pass
