"""Runs that are killed or asked to stop at random moments."""

import json
import shutil
import signal
import time

import pytest

from tests.runs import (
    assert_same_result,
    end,
    finish,
    half_written,
    kill,
    output_of,
    random_generator,
    rows,
    saved_steps,
    start,
    stopped_at,
    wait_for_row,
    wait_until,
)

pytestmark = pytest.mark.faults

RANDOM_KILLS, KILLS_WHILE_SAVING = 35, 15
STOPPED_RUNS, STOPS_EACH = 4, 5


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, undisturbed):
    """How long a run takes when `undisturbed` has already compiled its programs."""
    begun = time.monotonic()
    finish(tmp_path_factory.mktemp("timed"))
    return time.monotonic() - begun


def assert_continues_and_ends_as(undisturbed, workdir):
    has_checkpoint = bool(saved_steps(workdir))
    output = finish(workdir)
    assert ("continuing from step" in output) == has_checkpoint
    assert "damaged" not in output
    assert_same_result(workdir, undisturbed)


@pytest.mark.parametrize("trial", range(RANDOM_KILLS))
def test_a_run_killed_at_random_ends_in_the_same_bits(tmp_path, undisturbed, seconds, trial):
    moment = random_generator().uniform(0.3, 0.95) * seconds
    while not killed_after(moment, tmp_path):  # the run had already ended
        assert moment > 0.1
        shutil.rmtree(tmp_path)
        moment *= 0.8
    assert_continues_and_ends_as(undisturbed, tmp_path)


def killed_after(seconds, workdir):
    """Kills a run after some seconds; returns whether it was still incomplete."""
    process = start(workdir)
    time.sleep(seconds)
    process.kill()
    output_of(process)
    return not (workdir / "summary.json").exists()


@pytest.mark.parametrize("trial", range(KILLS_WHILE_SAVING))
def test_a_run_killed_while_it_saves_ends_in_the_same_bits(tmp_path, undisturbed, trial):
    generator = random_generator()
    while not half_written(tmp_path):  # the kill may come after the save has ended
        assert len(rows(tmp_path)) < 60
        process = start(tmp_path)
        wait_for_row(tmp_path, len(rows(tmp_path)) + generator.randint(1, 10), process)
        wait_until(lambda: half_written(tmp_path), process)
        time.sleep(generator.uniform(0, 0.01))
        kill(process)
    assert_continues_and_ends_as(undisturbed, tmp_path)


@pytest.mark.parametrize("run", range(STOPPED_RUNS))
def test_a_run_asked_to_stop_loses_at_most_a_step(tmp_path, undisturbed, run):
    generator = random_generator()
    for _ in range(STOPS_EACH):
        before = rows(tmp_path)
        process = start(tmp_path)
        wait_for_row(tmp_path, len(before) + generator.randint(1, 9), process)
        time.sleep(generator.uniform(0, 0.1))
        done = max(json.loads(row)["step"] for row in rows(tmp_path))
        process.send_signal(signal.SIGTERM)
        output = end(process, 75)
        stopped = stopped_at(output)
        assert stopped >= done
        assert (tmp_path / "checkpoints" / str(stopped)).is_dir()
        assert "Traceback" not in output
    assert_continues_and_ends_as(undisturbed, tmp_path)


@pytest.mark.parametrize("trial", range(5))
def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path, undisturbed, trial):
    generator = random_generator()
    process = start(tmp_path)
    wait_for_row(tmp_path, generator.randint(5, 20), process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(generator.uniform(0, 0.02))
    begun = time.monotonic()
    assert "Traceback" not in end(process, 75)
    print(f"ended after {time.monotonic() - begun:.2f} s")
    assert_continues_and_ends_as(undisturbed, tmp_path)
