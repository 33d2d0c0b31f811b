"""Runs of the real command, killed and started again."""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from se_flax.checkpoints import Checkpoints, read_config
from se_flax.data import load_dataset
from se_flax.train import build_program
from tests.conftest import ROOT

# A checkpoint after every step, so that kills hit them being written, too.
OPTIONS = ("--config=tests/tiny_run.py", "--config.log_every_steps=1")
OPTIONS += ("--config.checkpoint_every_minutes=0.0",)


def start(workdir):
    command = [sys.executable, "-m", "se_flax.main", *OPTIONS, f"--workdir={workdir}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(workdir):
    process = start(workdir)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def final_state(workdir):
    program = build_program(read_config(workdir), load_dataset("digits"))
    saved = Checkpoints(workdir, read_only=True)
    state, _ = saved.restore(jax.eval_shape(program.initial_state), 66)
    saved.close()
    return state


def wait_for_row(workdir, count, process):
    path = workdir / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(workdir)
    return workdir


def assert_same_result(workdir, undisturbed):
    state, expected = final_state(workdir), final_state(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert (workdir / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()


def test_a_run_killed_at_random_ends_in_the_same_bits(tmp_path, undisturbed):
    generator = random.Random(int.from_bytes(os.urandom(4)))
    for rows in (generator.randint(1, 30), generator.randint(35, 60)):
        process = start(tmp_path)
        wait_for_row(tmp_path, rows, process)
        time.sleep(generator.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert "going on from step" in finish(tmp_path)
    assert_same_result(tmp_path, undisturbed)


def test_a_run_asked_to_stop_saves_says_so_and_goes_on(tmp_path, undisturbed):
    process = start(tmp_path)
    wait_for_row(tmp_path, 10, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert output.splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in output
    assert "tracked_metric" not in output
    finish(tmp_path)
    assert_same_result(tmp_path, undisturbed)
