"""Runs of the real command that are killed or stopped, and started again."""

import json
import signal
import time

import pytest

from tests.runs import (
    SECONDS,
    assert_same_result,
    end,
    finish,
    kill,
    random_generator,
    rows,
    start,
    wait_for_row,
)
from tests.tiny_run import stream_options

STREAMED = ("--config.num_epochs=11", "--config.augment.mixup=0.2")


@pytest.fixture(scope="module")
def undisturbed_streamed(tmp_path_factory, image_dir):
    workdir = tmp_path_factory.mktemp("undisturbed_streamed")
    finish(workdir, (*STREAMED, *stream_options(image_dir)))
    return workdir


@pytest.mark.slow
def test_a_run_killed_at_random_ends_in_the_same_bits(tmp_path, undisturbed):
    generator = random_generator()
    for count in (generator.randint(1, 30), generator.randint(35, 60)):
        process = start(tmp_path)
        wait_for_row(tmp_path, count, process)
        time.sleep(generator.uniform(0, 0.2))
        kill(process)
    assert "continuing from step" in finish(tmp_path)
    assert_same_result(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_streamed_run_killed_ends_in_the_same_bits(tmp_path, image_dir, undisturbed_streamed):
    options = (*STREAMED, *stream_options(image_dir))
    options += ("--config.dataset.workers=2",)  # the undisturbed one read in threads
    process = start(tmp_path, options)
    # Each save waits for the one before, so from the third row on there is a complete checkpoint.
    wait_for_row(tmp_path, random_generator().randint(3, 60), process)
    kill(process)
    assert "continuing from step" in finish(tmp_path, options)
    assert_same_result(tmp_path, undisturbed_streamed)


def test_a_run_asked_to_stop_saves_reports_it_and_can_continue(tmp_path, undisturbed):
    process = start(tmp_path)
    wait_for_row(tmp_path, 10, process)
    process.send_signal(signal.SIGTERM)
    output = end(process, 75)
    assert output.splitlines()[-1].endswith("the same command continues from there")
    assert "Traceback" not in output
    assert "tracked_metric" not in output
    finish(tmp_path)
    assert_same_result(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_run_saves_when_ctrl_c_also_ends_the_command_it_is_piped_into(tmp_path, undisturbed):
    process = start(tmp_path)
    wait_for_row(tmp_path, 10, process)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 75
    last = json.loads(rows(tmp_path)[-1])["step"]
    assert (tmp_path / "checkpoints" / str(last)).is_dir()
    finish(tmp_path)
    assert_same_result(tmp_path, undisturbed)
