import io
import os
import pty

import pytest

from se_flax.runtime.progress import Progress, Stopwatch, format_results

RESULTS = {"loss": 1.5, "top1": 50.0, "top3": 75.0, "top5": 100.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_lines_are_plain():
    stream = io.StringIO()
    progress = Progress(total_steps=100, steps_per_epoch=10, images_per_step=128, stream=stream)
    progress.update(14, RESULTS, 64.0)
    progress.log(15, RESULTS, 64.0)
    progress.say_results(20, "test", [RESULTS])
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


def test_the_speed_leaves_out_compilation_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("se_flax.runtime.progress.time.perf_counter", lambda: now[0])
    stopwatch = Stopwatch()
    stopwatch.add(10)
    now[0] = 100.0  # compilation
    stopwatch.start()
    assert stopwatch.images_per_second == 0
    stopwatch.add(10)
    now[0] = 102.0
    stopwatch.stop()
    now[0] = 150.0  # evaluation
    stopwatch.start()
    stopwatch.add(10)
    now[0] = 152.0
    stopwatch.stop()
    assert stopwatch.images_per_second == pytest.approx(5.0)


def test_results_of_several_networks_are_shown_as_mean_and_range():
    other = {**RESULTS, "top1": 60.0, "loss": 2.5}
    line = format_results("test", [RESULTS, other])
    assert line == (
        "test: top-1 55.00%, top-3 75.00%, top-5 100.00%, loss 2.0000, "
        "mean of 2 seeds with top-1 50.00 to 60.00%"
    )
