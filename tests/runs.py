"""Helpers that run the real command in separate processes, and read the results.

Nothing here waits for longer than `SECONDS`.
"""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from se_flax.program import build_program, dataset_of_run
from se_flax.runtime.checkpoint_format import steps_in
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.runtime.paths import Path, is_in_bucket
from se_flax.workdir import read_config

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Many times longer than anything here takes, even on a busy machine.
SECONDS = 300
# A checkpoint after every step, so that faults can strike while one is being written.
OPTIONS = ("--config=tests/tiny_run.py", "--config.log_every_steps=1")
OPTIONS += ("--config.checkpoint_every_minutes=0.0",)


def random_generator() -> random.Random:
    """Returns a generator seeded by SE_FLAX_TEST_SEED, or by a new seed that it prints."""
    seed = int(os.environ.get("SE_FLAX_TEST_SEED") or int.from_bytes(os.urandom(4)))
    print(f"for the same random numbers, set SE_FLAX_TEST_SEED={seed}")
    return random.Random(seed)


def start(workdir: Path, options: Sequence[str] = (), **environment: str):
    """Starts a run; returns the process, whose standard output includes its errors."""
    return subprocess.Popen(
        [sys.executable, "-m", "se_flax.main", *OPTIONS, *options, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen, seconds: float = SECONDS) -> str:
    """Waits until a run ends; returns its output."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate(timeout=seconds)
        raise AssertionError(f"still running after {seconds} s:\n{output}") from None


def end(process: subprocess.Popen, status: int = 0, seconds: float = SECONDS) -> str:
    """Waits until a run ends with a status; returns its output."""
    output = output_of(process, seconds)
    assert process.returncode == status, output
    return output


def finish(workdir: Path, options: Sequence[str] = (), **environment: str) -> str:
    """Runs to the end; returns the output."""
    return end(start(workdir, options, **environment))


def kill(process: subprocess.Popen) -> None:
    """Kills a run that has not ended yet."""
    process.kill()
    end(process, -signal.SIGKILL)


def stopped_at(output: str) -> int:
    """Returns the step at which a run says that it stopped."""
    return int(output.rpartition("stopped at step ")[2].partition(";")[0])


def free_address() -> str:
    """Returns a HOST:PORT of this machine where nothing is listening yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_processes(
    workdir: Path,
    count: int,
    options: Sequence[str] = (),
    last: Sequence[str] = (),
    **environment: str,
):
    """Starts a run of several processes, with eight devices in total.

    The last process also gets the options in `last`.
    """
    address = free_address()
    flags = f"--xla_force_host_platform_device_count={8 // count}"
    options = [*options, f"--coordinator_address={address}", f"--num_processes={count}"]
    each = [[*options, f"--process_id={i}"] for i in range(count)]
    each[-1] += last
    return [start(workdir, options, XLA_FLAGS=flags, **environment) for options in each]


def rows(workdir: Path) -> list[str]:
    """Returns the rows of metrics.jsonl, [] if there is no such file yet."""
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def logged(workdir: Path, name: str) -> list[float]:
    """Returns the values of a metric in metrics.jsonl, in the order of the rows that have it."""
    return [row[name] for row in map(json.loads, rows(workdir)) if name in row]


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen | None = None,
    pause: float = 0.002,
) -> None:
    """Waits for a condition; if a process is given, it must run until then."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, f"not true after {SECONDS} s"
        time.sleep(pause)


def wait_for_row(workdir: Path, count: int, process: subprocess.Popen) -> None:
    """Waits until metrics.jsonl has `count` rows."""
    wait_until(lambda: len(rows(workdir)) >= count, process)


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoints, in increasing order."""
    return steps_in(workdir / "checkpoints")


def half_written(workdir: Path) -> list[str]:
    """Returns the names of the checkpoints that are being written."""
    if is_in_bucket(workdir):
        names = {path.name for path in workdir.glob("checkpoints/*")}
        return sorted(names - set(map(str, saved_steps(workdir))))
    return [path.name for path in workdir.glob("checkpoints/*tmp*")]


def final_state(workdir: Path) -> Any:
    """Returns the state that a complete run ended in."""
    config = read_config(workdir)
    program = build_program(config, dataset_of_run(config))
    with Checkpoints(workdir, read_only=True) as saved:
        return saved.restore(program.abstract(), program.plan.total_steps)[0]


def assert_same_result(workdir: Path, undisturbed: Path) -> None:
    """Asserts that a run ended in the same bits as another, and logged the same rows."""
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(undisturbed))
    assert rows(workdir) == rows(undisturbed)
