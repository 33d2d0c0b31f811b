"""Fills the disk a run writes to: python -m tests.faults.full_disk FOLDER SCENARIO.

It mounts a small file system over FOLDER. This needs root, which a user namespace can provide:
unshare --user --map-root-user --mount python -m ...
"""

import contextlib
import pathlib
import subprocess
import sys
import time

from tests.runs import assert_same_result, end, saved_steps, start, wait_for_row, wait_until

MEGABYTES = 16
FILLER = "filler"


def fill(disk: pathlib.Path) -> None:
    """Appends to a file until there is no room left."""
    with (disk / FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def stays_full(disk: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Fills the disk until the run ends; with room again, the same command continues it."""
    workdir = disk / "run"
    process = start(workdir)
    wait_for_row(workdir, 20, process)
    before = saved_steps(workdir)

    def ended():
        fill(disk)  # again and again, because a save that fails gives back what it took
        return process.poll() is not None

    wait_until(ended, pause=0.05)
    output = end(process, 74)
    assert "No space left on device; trying again in 16 s" in output, output
    assert output.splitlines()[-1].startswith("error: cannot write "), output
    assert "No space left on device; earlier checkpoints are intact" in output, output
    assert "Traceback" not in output, output
    assert max(saved_steps(workdir)) >= max(before)
    (disk / FILLER).unlink()
    newest = max(saved_steps(workdir))
    output = end(start(workdir))
    assert f"continuing from step {newest}" in output, output
    assert "damaged" not in output, output
    assert_same_result(workdir, undisturbed)


def has_room_again(disk: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Fills the disk for a few seconds, which the run waits out."""
    workdir = disk / "run"
    process = start(workdir)
    wait_for_row(workdir, 20, process)
    fill(disk)
    time.sleep(4)
    assert process.poll() is None
    (disk / FILLER).unlink()
    output = end(process)
    assert "trying again in" in output, output
    assert_same_result(workdir, undisturbed)


def is_read_only(disk: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Starts a run on a file system that cannot be written to."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    *_, error = end(start(disk / "run"), 2).splitlines()  # on a slow machine, after what it does
    assert "cannot be written to" in error, error
    assert "Read-only file system" in error, error


def main() -> None:
    """Runs a scenario."""
    disk, undisturbed, scenario = sys.argv[1:]
    size = f"size={MEGABYTES}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=True)
    try:
        scenarios = {each.__name__: each for each in (stays_full, has_room_again, is_read_only)}
        scenarios[scenario](pathlib.Path(disk), pathlib.Path(undisturbed))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


if __name__ == "__main__":
    main()
