"""Runs of the real command in processes of their own, and what they end in."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from se_flax.data.from_config import dataset_of
from se_flax.program import build_program
from se_flax.runtime.checkpoints import Checkpoints, read_config

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A checkpoint after every step, so that whatever happens may happen while one is written.
OPTIONS = ("--config=tests/tiny_run.py", "--config.log_every_steps=1")
OPTIONS += ("--config.checkpoint_every_minutes=0.0",)


def start(workdir: pathlib.Path, options: Sequence[str] = (), **environment: str):
    """Starts a run; returns the process, whose output is of both kinds."""
    return subprocess.Popen(
        [sys.executable, "-m", "se_flax.main", *OPTIONS, *options, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen, status: int = 0) -> str:
    """Waits for a run to end with a status; returns its output."""
    output, _ = process.communicate()
    assert process.returncode == status, output
    return output


def finish(workdir: pathlib.Path, options: Sequence[str] = (), **environment: str) -> str:
    """Runs to the end; returns the output."""
    return end(start(workdir, options, **environment))


def kill(process: subprocess.Popen) -> None:
    """Kills a run that has not ended yet."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def stopped_at(output: str) -> int:
    """Returns the step at which a run says that it stopped."""
    return int(output.rpartition("stopped at step ")[2].partition(";")[0])


def free_address() -> str:
    """Returns HOST:PORT of this machine, where nothing listens yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_processes(
    workdir: pathlib.Path,
    count: int,
    options: Sequence[str] = (),
    last: Sequence[str] = (),
    **environment: str,
):
    """Starts a run of several processes, which have eight devices together.

    The last of them is given some more options.
    """
    address = free_address()
    flags = f"--xla_force_host_platform_device_count={8 // count}"
    options = [*options, f"--coordinator_address={address}", f"--num_processes={count}"]
    each = [[*options, f"--process_id={i}"] for i in range(count)]
    each[-1] += last
    return [start(workdir, options, XLA_FLAGS=flags, **environment) for options in each]


def rows(workdir: pathlib.Path) -> list[str]:
    """Returns the rows of metrics.jsonl, none if there is none yet."""
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits for a condition, which must come while the process runs."""
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)


def wait_for_row(workdir: pathlib.Path, count: int, process: subprocess.Popen) -> None:
    """Waits until metrics.jsonl has so many rows."""
    wait_until(lambda: len(rows(workdir)) >= count, process)


def half_written(workdir: pathlib.Path) -> list[str]:
    """Returns the names of the checkpoints that a save is about to make."""
    return [path.name for path in workdir.glob("checkpoints/*tmp*")]


def final_state(workdir: pathlib.Path) -> Any:
    """Returns the state of a run's newest checkpoint."""
    config = read_config(workdir)
    program = build_program(config, dataset_of(config))
    saved = Checkpoints(workdir, read_only=True)
    state, _ = saved.restore(program.abstract(), program.total_steps)
    saved.close()
    return state


def assert_same_result(workdir: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Asserts that a run ended as another did, to the bit, and logged the same rows."""
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(undisturbed))
    assert rows(workdir) == rows(undisturbed)
