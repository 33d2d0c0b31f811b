import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import filelock
import pytest

from se_flax.errors import UserError
from se_flax.runtime.lock import WorkdirLock
from tests.runs import ROOT, wait_until


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

    def hold():  # as seen here on a file system that does not pass locks on to other hosts
        beat = 0
        while not ended.wait(0.02):
            beat += 1
            text = json.dumps({"host": "far", "process": 1, "beat": beat})
            (tmp_path / "partial").write_text(text)
            (tmp_path / "partial").replace(tmp_path / "lock")

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        wait_until((tmp_path / "lock").exists)
        lock = WorkdirLock(tmp_path, beat_seconds=0.2)
        with pytest.raises(UserError, match="by process 1 on far"), lock:
            pass
    finally:
        ended.set()
        holder.join()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    lock = WorkdirLock(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"cannot be written to .*Not a directory"), lock:
        pass


HOLD_WITH_A_CHILD = """
import os, pathlib, sys, time
from se_flax.runtime.lock import WorkdirLock
with WorkdirLock(pathlib.Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
    os._exit(0)
"""


def test_the_lock_ends_with_its_process_even_if_a_forked_child_lives_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_WITH_A_CHILD, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(process.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"by process {process.pid} on"), WorkdirLock(tmp_path):
            pass
        process.kill()
        process.wait(60)
        with WorkdirLock(tmp_path):
            os.kill(child, 0)  # raises if there is no such process
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def fail(self, **options):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(filelock.UnixFileLock, "acquire", fail)
    with (
        pytest.raises(UserError, match=r"cannot be written to .*Function not implemented; give an"),
        WorkdirLock(tmp_path),
    ):
        pass
