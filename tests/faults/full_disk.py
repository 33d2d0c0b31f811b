"""Fills the disk a run writes to: python -m tests.faults.full_disk FOLDER SCENARIO.

It mounts a small file system over FOLDER, for which it must be root, if only of a user namespace
of its own: unshare --user --map-root-user --mount python -m ...
"""

import contextlib
import pathlib
import subprocess
import sys
import time

from tests.runs import assert_same_result, end, start, wait_for_row

MEGABYTES = 16


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Writes to a file until there is no room; returns its path."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def stays_full(disk: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Fills the disk for good; then there is room, and the same command goes on."""
    workdir = disk / "run"
    process = start(workdir)
    wait_for_row(workdir, 20, process)
    before = saved_steps(workdir)
    while process.poll() is None:  # a save that fails gives back what it took
        filler = fill(disk)
        time.sleep(0.05)
    output = end(process, 74)
    assert "No space left on device; trying again in 16 s" in output, output
    assert output.splitlines()[-1].startswith("error: cannot write "), output
    assert "No space left on device; earlier checkpoints are intact" in output, output
    assert "Traceback" not in output, output
    assert max(saved_steps(workdir)) >= max(before)
    filler.unlink()
    newest = max(saved_steps(workdir))
    output = end(start(workdir))
    assert f"going on from step {newest}" in output, output
    assert "damaged" not in output, output
    assert_same_result(workdir, undisturbed)


def has_room_again(disk: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Fills the disk for a few seconds, which the run sits out."""
    workdir = disk / "run"
    process = start(workdir)
    wait_for_row(workdir, 20, process)
    filler = fill(disk)
    time.sleep(4)
    assert process.poll() is None
    filler.unlink()
    output = end(process)
    assert "trying again in" in output, output
    assert_same_result(workdir, undisturbed)


def is_read_only(disk: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Starts a run on a file system that cannot be written to."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    (error,) = end(start(disk / "run"), 2).splitlines()
    assert "cannot be written to" in error, error
    assert "Read-only file system" in error, error


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints."""
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


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
