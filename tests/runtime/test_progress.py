import io
import json
import os
import pty

import numpy as np
import pytest

from se_flax.runtime.progress import Meter, Progress
from se_flax.steps import Metrics

RESULTS = {"loss": 1.5, "top1": 50.0, "top3": 75.0, "top5": 100.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_lines_are_plain():
    stream = io.StringIO()
    progress = Progress(total_steps=100, steps_per_epoch=10, images_per_step=128, stream=stream)
    progress.update(14, RESULTS, 64.0)
    progress.log(15, RESULTS, 64.0)
    progress.say_results(20, "test", RESULTS)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "epoch  2/10  step 15/100  loss 1.5000, top-1 50.00%, 64 images/s, 02:50 left",
        "epoch  2/10  test: top-1 50.00%, top-3 75.00%, top-5 100.00%, loss 1.5000",
    ]


def test_without_a_terminal_a_slow_run_is_never_silent_for_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("se_flax.runtime.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(total_steps=100, steps_per_epoch=10, images_per_step=128, stream=stream)
    for step in range(1, 9):
        now[0] += 10
        progress.update(step, RESULTS, 12.8)
    assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["3/100", "6/100"]


def test_on_a_terminal_there_is_a_live_bar():
    stream = Terminal()
    progress = Progress(
        total_steps=100, steps_per_epoch=10, images_per_step=8, first_step=10, stream=stream
    )
    progress.update(14, RESULTS, 64.0)
    progress.say("a line")
    progress.close()
    text = stream.getvalue()
    assert "epoch  2/10" in text
    assert "14/100 steps" in text
    assert "loss 1.5000, top-1 50.00%, 64 images/s" in text
    assert "left" in text
    assert "a line\n" in text


def test_on_a_terminal_of_no_size_lines_are_plain():
    ours, theirs = pty.openpty()  # made with 0 rows and 0 columns
    with os.fdopen(theirs, "w") as stream:
        progress = Progress(total_steps=100, steps_per_epoch=10, images_per_step=8, stream=stream)
        progress.log(15, RESULTS, 64.0)
        progress.close()
        assert b"step 15/100" in os.read(ours, 1000)
    os.close(ours)


def metrics(loss, top1):
    return Metrics(*(np.float32(value) for value in (loss, top1, top1, top1, 4, 0)), np.zeros(3))


def test_a_row_is_the_mean_since_the_row_before():
    meter = Meter()
    meter.add(metrics(8.0, 1), 4)
    meter.add(metrics(4.0, 3), 4)
    assert meter.finish_row() == {"loss": 1.5, "top1": 50.0, "top3": 50.0, "top5": 50.0}
    meter.add(metrics(2.0, 4), 4)
    assert meter.finish_row()["loss"] == 0.5


def test_sums_carry_a_row_over_to_another_meter():
    meter = Meter()
    meter.add(metrics(8.0, 1), 4)
    other = Meter(meter.sums())
    other.add(metrics(4.0, 3), 4)
    assert other.finish_row()["loss"] == 1.5


def test_skipped_updates_in_a_row_are_counted_by_seed_and_over_rows_and_restarts():
    def of_seeds(*skipped, step):
        count = np.array([4.0 - 4 * each for each in skipped])
        first = np.array([[step, np.nan, 7.0]] * len(skipped))
        return Metrics(*[np.zeros(len(skipped))] * 4, count, np.array(skipped), first)

    meter = Meter()
    for step, skipped in enumerate([(0, 1), (1, 1), (0, 1)]):
        meter.add(of_seeds(*skipped, step=step), 4)
    meter.finish_row()
    meter = Meter(json.loads(json.dumps(meter.sums())))
    meter.add(of_seeds(1, 1, step=3), 4)
    meter.read()
    np.testing.assert_array_equal(meter.skipped_in_a_row, [1, 4])
    np.testing.assert_array_equal(meter.first_in_a_row, [[3, np.nan, 7.0], [0, np.nan, 7.0]])


def test_the_speed_leaves_out_compilation_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("se_flax.runtime.progress.time.perf_counter", lambda: now[0])
    meter = Meter()
    meter.add(metrics(1.0, 1), 10)
    now[0] = 100.0  # compilation
    meter.start_clock()
    assert meter.images_per_second == 0
    meter.add(metrics(1.0, 1), 10)
    now[0] = 102.0
    meter.stop_clock()
    now[0] = 150.0  # evaluation
    meter.start_clock()
    meter.add(metrics(1.0, 1), 10)
    now[0] = 152.0
    meter.stop_clock()
    assert meter.images_per_second == pytest.approx(5.0)
