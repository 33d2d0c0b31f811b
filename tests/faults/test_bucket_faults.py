"""Runs whose folder is in Google Cloud Storage: killed, stopped, cut off, and started twice."""

import signal
import time

import pytest

from se_flax.runtime.paths import to_path
from tests.runs import (
    assert_same_result,
    end,
    finish,
    half_written,
    kill,
    random_generator,
    saved_steps,
    start,
    stopped_at,
    wait_until,
)

pytestmark = pytest.mark.faults

RANDOM_KILLS, KILLS_WHILE_SAVING = 10, 10
# 14 checkpoints instead of 66: one takes about a hundred requests.
RARELY = ("--config.log_every_steps=6",)
OUTAGE_SECONDS = 30


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The workdir of an undisturbed run on a disk."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(workdir, RARELY)
    return workdir


@pytest.fixture(scope="module")
def requests(server, undisturbed):
    """The number of requests that a run in a bucket makes."""
    before = server.requests
    finish(to_path("gs://bucket/counted"), RARELY)
    return server.requests - before


def assert_continues_and_ends_as(undisturbed, workdir):
    has_checkpoint = bool(saved_steps(workdir))
    begun = time.monotonic()
    output = finish(workdir, RARELY)
    print(f"continued: {has_checkpoint}, in {time.monotonic() - begun:.0f} s")
    assert ("continuing from step" in output) == has_checkpoint
    assert "damaged" not in output
    assert "checking for" not in output  # the lock of a dead run on this machine
    assert_same_result(workdir, undisturbed)


def wait_for_save(workdir, process, after=0):
    """Waits until a checkpoint is being written, and some are complete."""
    wait_until(lambda: len(saved_steps(workdir)) >= after, process, pause=0.05)
    wait_until(lambda: half_written(workdir), process, pause=0.01)


@pytest.mark.parametrize("trial", range(RANDOM_KILLS))
def test_a_run_killed_at_random_ends_in_the_same_bits(bucket, server, undisturbed, requests, trial):
    count = server.requests + random_generator().randint(1, int(0.8 * requests))
    process = start(bucket, RARELY)
    wait_until(lambda: server.requests >= count, process)
    kill(process)
    assert_continues_and_ends_as(undisturbed, bucket)


@pytest.mark.parametrize("trial", range(KILLS_WHILE_SAVING))
def test_a_run_killed_while_it_saves_ends_in_the_same_bits(bucket, undisturbed, trial):
    generator = random_generator()
    process = start(bucket, RARELY)
    wait_for_save(bucket, process, after=generator.randint(0, 2))
    time.sleep(generator.uniform(0, 0.5))
    kill(process)
    print(f"half written: {half_written(bucket)}")
    assert_continues_and_ends_as(undisturbed, bucket)


def test_a_run_asked_to_stop_saves_and_continues(bucket, undisturbed):
    process = start(bucket, RARELY)
    wait_for_save(bucket, process, after=1)
    process.send_signal(signal.SIGTERM)
    output = end(process, 75)
    assert stopped_at(output) in saved_steps(bucket)
    assert "Traceback" not in output
    assert_continues_and_ends_as(undisturbed, bucket)


def test_a_run_survives_an_outage_while_it_saves_and_refused_requests(bucket, server, undisturbed):
    server.unavailable = 0.1
    # A checkpoint after each epoch only, as every tenth request waits for a second or more.
    process = start(bucket, (*RARELY, "--config.checkpoint_every_minutes=60.0"))
    wait_for_save(bucket, process, after=1)
    with server.stopped():
        time.sleep(OUTAGE_SECONDS)
    output = end(process)
    assert "Traceback" not in output
    server.unavailable = 0.0
    assert_same_result(bucket, undisturbed)


def test_a_second_run_in_a_bucket_is_refused_and_the_first_is_not_disturbed(bucket, undisturbed):
    first = start(bucket, RARELY)
    wait_for_save(bucket, first)
    error = end(start(bucket, RARELY), 2)
    assert f"is being written to by process {first.pid} on" in error.splitlines()[-1]
    assert "Traceback" not in error
    end(first)
    assert_same_result(bucket, undisturbed)
