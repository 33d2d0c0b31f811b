"""Runs whose disk is full, read-only, slow or failing, or whose folder is gone."""

import shutil
import signal
import subprocess
import sys

import pytest

from tests.runs import (
    ROOT,
    SECONDS,
    assert_same_result,
    end,
    finish,
    half_written,
    kill,
    rows,
    saved_steps,
    start,
    stopped_at,
    wait_for_row,
    wait_until,
)

pytestmark = pytest.mark.faults

AS_ROOT = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*AS_ROOT, "true"], capture_output=True, check=False).returncode != 0,
    reason="mounting a file system needs root, if only of a user namespace",
)
@pytest.mark.parametrize("scenario", ["stays_full", "has_room_again", "is_read_only"])
def test_a_run_on_a_disk_that(tmp_path, undisturbed, scenario):
    process = subprocess.run(
        [*AS_ROOT, sys.executable, "-m", "tests.faults.full_disk", tmp_path, undisturbed, scenario],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SECONDS,
    )
    assert process.returncode == 0, process.stderr


def test_a_run_on_a_slow_disk_can_be_stopped_and_killed(tmp_path, undisturbed, slow_disk):
    workdir = tmp_path / "run"
    slow = slow_disk(workdir, 0.01)

    process = start(workdir, **slow)
    wait_for_row(workdir, 10, process)
    wait_until(lambda: half_written(workdir), process)
    process.send_signal(signal.SIGTERM)
    stopped = stopped_at(end(process, 75))
    assert (workdir / "checkpoints" / str(stopped)).is_dir()

    process = start(workdir, **slow)
    wait_for_row(workdir, len(rows(workdir)) + 10, process)
    wait_until(lambda: half_written(workdir), process)
    kill(process)
    assert half_written(workdir)

    output = finish(workdir, **slow)
    assert "continuing from step" in output
    assert "damaged" not in output
    assert_same_result(workdir, undisturbed)


def test_a_run_on_a_disk_that_fails_occasionally_continues(tmp_path, undisturbed, slow_disk):
    workdir = tmp_path / "run"
    process = start(workdir, **slow_disk(workdir))
    wait_for_row(workdir, 10, process)
    fails = tmp_path / "run.fails"
    fails.touch()
    wait_for_row(workdir, 30, process)
    fails.unlink()
    wait_until((workdir / "summary.json").exists, process)
    output = end(process, seconds=60)  # the run must not wait for the failed write
    assert "Input/output error; trying again in 1 s" in output, output
    assert "Traceback" not in output, output
    assert "Warning" not in output, output
    assert_same_result(workdir, undisturbed)


def test_a_run_whose_folder_is_moved_stops_and_continues_in_the_new_place(tmp_path, undisturbed):
    process = start(tmp_path / "here")
    wait_for_row(tmp_path / "here", 20, process)
    (tmp_path / "here").rename(tmp_path / "there")
    output = end(process, 74)
    assert "No such file or directory" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert not saved_steps(tmp_path / "here")
    assert "continuing from step" in finish(tmp_path / "there")
    assert_same_result(tmp_path / "there", undisturbed)


def test_a_run_whose_folder_is_removed_stops(tmp_path):
    process = start(tmp_path / "run")
    wait_for_row(tmp_path / "run", 20, process)

    def removed():
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return not (tmp_path / "run").exists()

    wait_until(removed)
    output = end(process, 74)
    assert "No such file or directory" in output.splitlines()[-1]
    assert "Traceback" not in output
