"""Workdirs in Google Cloud Storage, on a server of its protocol in this process."""

import builtins
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.runtime import buckets
from se_flax.runtime.buckets import AppendedObject, generation_of, replace_generation
from se_flax.runtime.checkpoint_format import Checkpoint, CheckpointDamaged, steps_in
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.runtime.lock import BucketLock
from se_flax.runtime.paths import is_in_bucket, to_path
from se_flax.runtime.storage import write_text
from tests.runs import ROOT

FAR = {"host": "far", "process": 1, "run": "other", "local_lock": "of another machine"}


@pytest.mark.parametrize(
    "text", ["s3://bucket/run", "gs://", "gs:///run", "http://x/y", "GS://b/c"]
)
def test_a_url_that_is_no_folder_in_a_bucket_is_refused(text):
    with pytest.raises(UserError, match="give the latter as gs://BUCKET/FOLDER"):
        to_path(text)


def test_a_path_is_local_unless_it_is_a_url(bucket, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(to_path("~/runs/a:b")) == "/home/me/runs/a:b"
    assert not is_in_bucket(to_path("runs"))
    assert is_in_bucket(to_path(str(bucket)))
    assert str(to_path(pathlib.Path("gs://bucket/run"))) == "gs://bucket/run"
    assert to_path(to_path("gs://bucket/run/")) == to_path("gs://bucket/run")


def test_what_to_install_is_said_if_it_is_missing(monkeypatch):
    known = builtins.__import__

    def without_gcsfs(name, *args):
        if name.partition(".")[0] == "gcsfs":
            raise ModuleNotFoundError("no module gcsfs", name="gcsfs")
        return known(name, *args)

    monkeypatch.delitem(sys.modules, "se_flax.runtime.gcs", raising=False)
    monkeypatch.delattr("se_flax.runtime.gcs", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_gcsfs)
    with pytest.raises(UserError, match=r"needs the package gcsfs; install it with pip install"):
        to_path("gs://bucket/run")


def test_an_object_is_replaced_only_if_nobody_else_has_replaced_it(bucket):
    path = bucket / "object"
    assert generation_of(path) == 0
    first = replace_generation(path, "first", 0)
    with pytest.raises(FileExistsError):
        replace_generation(path, "other", 0)
    second = replace_generation(path, "second", first)
    with pytest.raises(FileExistsError):
        replace_generation(path, "other", first)
    assert json.loads(path.read_text()) == "second"
    assert generation_of(path) == second


@pytest.fixture
def at_once(monkeypatch):
    """No waiting before a request is repeated."""
    monkeypatch.setattr("gcsfs.retry.min", lambda *seconds: 0, raising=False)


def test_requests_that_the_server_refuses_for_now_are_repeated(bucket, server, at_once):
    server.unavailable = 0.3
    for i in range(5):
        write_text(bucket / "file", str(i))
        assert (bucket / "file").read_text() == str(i)


def test_rows_are_in_the_bucket_after_a_sync_or_some_time(bucket, monkeypatch):
    path = bucket / "rows"
    path.write_bytes(b"before\n")
    rows = AppendedObject(path)
    rows.append(b"one\n")
    assert path.read_bytes() == b"before\n"
    rows.sync()
    assert path.read_bytes() == b"before\none\n"
    rows.append(b"two\n")
    rows.close()
    assert path.read_bytes() == b"before\none\ntwo\n"
    monkeypatch.setattr(buckets, "_FLUSH_SECONDS", 0.0)
    rows.append(b"three\n")
    assert path.read_bytes() == b"before\none\ntwo\nthree\n"


def test_a_row_that_cannot_be_written_can_be_appended_again(bucket, monkeypatch):
    rows = AppendedObject(bucket / "rows")
    rows.append(b"one\n")
    monkeypatch.setattr(buckets, "_FLUSH_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(rows, "sync", lambda: to_path("/nowhere").stat())
        with pytest.raises(OSError, match="/nowhere"):
            rows.append(b"two\n")
    rows.append(b"two\n")
    assert (bucket / "rows").read_bytes() == b"one\ntwo\n"


def test_a_workdir_in_a_bucket_has_one_writer(bucket):
    held = f"is being written to by process {os.getpid()} on {socket.gethostname()}"
    with BucketLock(bucket), pytest.raises(UserError, match=held), BucketLock(bucket):
        pass
    assert not (bucket / "lock").exists()
    with BucketLock(bucket):
        pass


HOLD = """
import sys, time
from se_flax.runtime.lock import BucketLock
from se_flax.runtime.paths import to_path
with BucketLock(to_path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_run_killed_on_this_machine_is_taken_at_once(bucket):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(bucket)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"by process {process.pid} on"), BucketLock(bucket):
        pass
    process.kill()
    process.wait(60)
    begun = time.monotonic()
    with BucketLock(bucket) as held:
        held.check()
    assert time.monotonic() - begun < 10


def test_the_lock_that_a_dead_run_left_on_another_machine_is_taken_after_a_while(bucket):
    replace_generation(bucket / "lock", FAR, 0)
    with BucketLock(bucket, beat_seconds=0.1) as held:
        assert json.loads((bucket / "lock").read_text())["process"] == os.getpid()
        held.check()


def test_the_lock_that_a_run_on_another_machine_renews_is_not_taken(bucket):
    generation = replace_generation(bucket / "lock", FAR, 0)
    ended = threading.Event()

    def hold(generation):
        while not ended.wait(0.02):
            generation = replace_generation(bucket / "lock", FAR, generation)

    holder = threading.Thread(target=hold, args=(generation,))
    holder.start()
    try:
        taken = BucketLock(bucket, beat_seconds=0.2)
        with pytest.raises(UserError, match="is being written to by process 1 on far"), taken:
            pass
    finally:
        ended.set()
        holder.join()


def test_a_run_whose_lock_was_taken_over_learns_of_it_before_it_writes(bucket):
    with BucketLock(bucket, beat_seconds=1000.0) as held:
        held.check()
        replace_generation(bucket / "lock", FAR, generation_of(bucket / "lock"))
        held._renewed -= 10_000  # as after the machine was suspended
        with pytest.raises(UserError, match=r"by process 1 on far.*it took over because this run"):
            held.check()
    assert json.loads((bucket / "lock").read_text()) == FAR


def test_a_lock_is_kept_although_answers_are_lost_or_the_object_is_removed(bucket, server, at_once):
    with BucketLock(bucket, beat_seconds=1000.0) as held:
        server.lost = 0.4
        for _ in range(5):
            held._renew()
        server.lost = 0.0
        (bucket / "lock").unlink()
        held._renewed = 0.0
        held.check()
        assert json.loads((bucket / "lock").read_text())["process"] == os.getpid()


def test_a_bucket_that_does_not_exist_is_reported():
    held = BucketLock(to_path("gs://nobucket/run"))
    with pytest.raises(UserError, match="results cannot be written to gs://nobucket/run: "), held:
        pass


def tree_at(step):
    weights = np.random.default_rng(step).normal(size=(50, 7)).astype(np.float32)
    return {"step": jnp.full((), step), "params": {"kernel": jnp.array(weights)}}


def assert_equal(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), found, expected)


@pytest.fixture
def saved(bucket):
    """A workdir with the checkpoints of steps 1, 3 and 4, of which 1 is the best."""
    with Checkpoints(bucket) as checkpoints:
        for step, top1 in ((1, 90.0), (2, 50.0), (3, None), (4, 70.0)):
            checkpoints.save(step, tree_at(step), {"seconds": step}, top1 and {"top1": top1})
    return bucket


def test_checkpoints_in_a_bucket_are_as_they_were_saved(saved):
    with Checkpoints(saved) as checkpoints:
        assert (checkpoints.steps, checkpoints.latest, checkpoints.best) == ([1, 3, 4], 4, [1])
        for step in (1, 3, 4):
            tree, progress = checkpoints.restore(tree_at(0), step)
            assert_equal(tree, tree_at(step))
            assert progress == {"seconds": step}


def test_a_half_written_checkpoint_in_a_bucket_is_not_there_and_not_damaged(saved, capsys):
    (saved / "checkpoints" / "4" / "commit_success.txt").unlink()
    assert steps_in(saved / "checkpoints") == [1, 3]
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == 3
        checkpoints.save(4, tree_at(40), {})
        checkpoints.wait()
        assert_equal(checkpoints.restore(tree_at(0), 4)[0], tree_at(40))
    assert "damaged" not in capsys.readouterr().err
    assert not list(saved.glob("damaged_checkpoints/*"))


def objects_of(server, folder):
    prefix = str(folder).removeprefix("gs://bucket/") + "/"
    return [name.removeprefix(prefix) for name in server.names() if name.startswith(prefix)]


@pytest.mark.slow
def test_each_object_of_a_checkpoint_can_be_lost_or_changed(saved, server, capsys):
    folder = saved / "checkpoints" / "4"
    good = {name: (folder / name).read_bytes() for name in objects_of(server, folder)}
    assert len(good) > 8
    for name in good:
        if name.endswith("commit_success.txt"):
            continue
        for change in (b"", b"something else", None):
            for other, content in good.items():
                (folder / other).write_bytes(content)
            (folder / name).unlink()
            if change is not None:
                (folder / name).write_bytes(change)
            with Checkpoints(saved) as checkpoints:
                restored = checkpoints.restore(tree_at(0), checkpoints.latest)[0]
                assert_equal(restored, tree_at(checkpoints.latest))
                if checkpoints.latest == 3:
                    assert "checkpoints/4 is damaged" in capsys.readouterr().err
                    assert not folder.exists()


def test_a_checkpoint_being_removed_looks_half_written_until_it_is_gone(saved, server):
    server.delay = 0.02
    seen = []
    remover = threading.Thread(target=(saved / "checkpoints" / "3").rmtree)
    remover.start()
    while remover.is_alive():
        seen.append(objects_of(server, saved / "checkpoints" / "3"))
    complete = max(map(len, seen))
    assert {len(names) for names in seen if "commit_success.txt" in names} == {complete}
    assert complete - 1 in {len(names) for names in seen}


def test_an_unreachable_bucket_is_not_mistaken_for_damage(saved, server, at_once):
    with server.stopped(), pytest.raises(UserError, match=r"cannot read .*/4: ") as raised:
        Checkpoint.read(saved / "checkpoints" / "4")
    assert not isinstance(raised.value, CheckpointDamaged)
    Checkpoint.read(saved / "checkpoints" / "4")
