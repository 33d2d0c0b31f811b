import errno
import json

import pytest

from se_flax.errors import StorageError
from se_flax.runtime import storage
from se_flax.runtime.storage import AppendedFile, persistently, write_json


@pytest.fixture
def at_once(monkeypatch):
    """No waiting between attempts."""
    monkeypatch.setattr(storage, "DELAYS", (0.0, 0.0, 0.0))


def test_a_write_that_fails_for_a_while_succeeds_in_the_end(at_once, capsys):
    failures = iter([OSError(errno.ENOSPC, "No space left on device")] * 2)

    def write():
        for failure in failures:
            raise failure

    persistently(write, "a row")
    assert (
        capsys.readouterr().err.splitlines()
        == ["cannot write a row: No space left on device; trying again in 0 s"] * 2
    )


def test_a_write_that_keeps_failing_is_reported_after_the_last_attempt(at_once, capsys):
    def write():
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(
        StorageError,
        match="cannot write a row: Read-only file system; earlier checkpoints are intact, and the "
        "same command continues from the newest",
    ):
        persistently(write, "a row")
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_waits_before_further_attempts_are_the_delays(monkeypatch):
    waits, attempts = [], []
    monkeypatch.setattr(storage.tenacity.nap.time, "sleep", waits.append)

    def write():
        attempts.append(None)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError):
        persistently(write, "a row")
    assert waits == [1.0, 4.0, 16.0]
    assert len(attempts) == 4


@pytest.mark.parametrize("kind", [TypeError, AttributeError, ZeroDivisionError])
def test_an_error_that_retries_cannot_mend_is_raised_at_once(at_once, capsys, kind):
    attempts = []

    def write():
        attempts.append(None)
        raise kind("a mistake")

    with pytest.raises(kind, match="a mistake"):
        persistently(write, "a row")
    assert len(attempts) == 1
    assert not capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(
        storage.pathlib.Path, "replace", lambda *_: storage.pathlib.Path("/nowhere").stat()
    )
    with pytest.raises(OSError, match="/nowhere"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_appended_completely_or_not_at_all(tmp_path):
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
