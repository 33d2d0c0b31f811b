import io
import os
import pty
import re

import pytest

from se_flax.runtime.progress import Progress, Stopwatch, counted, format_results, format_steps
from se_flax.runtime.terminal import say_last
from tests import screen

RESULTS = {"loss": 1.5, "top1": 50.0, "top3": 75.0, "top5": 100.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_single_image_is_not_called_images():
    assert [counted(n, "image") for n in (1, 2, 1200)] == ["1 image", "2 images", "1,200 images"]


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


RUN_ON_A_TERMINAL = """
import sys, time
from se_flax.cli.command import outlive_output
from se_flax.runtime.interrupts import Interrupt
from se_flax.runtime.progress import Progress

outlive_output()
results = {"loss": 12.3456, "top1": 50.0, "top3": 75.0, "top5": 100.0}
progress = Progress(total_steps=2000, steps_per_epoch=10, images_per_step=8)
with Interrupt() as interrupt:
    for step in range(1, 2000):
        progress.update(step, results, 12345.0)
        if step == 5:
            progress.say_results(step, "validation", [results, results])
        time.sleep(0.01)
        if interrupt.requested or step == STEPS:
            break
AT_THE_END
"""


def test_the_last_line_replaces_the_bar_and_the_echo_of_ctrl_c(monkeypatch):
    terminal = Terminal("")
    terminal.write(f"{'=' * 77}^C")
    monkeypatch.setattr("sys.stderr", terminal)
    say_last("stopped immediately")
    assert screen.shown(terminal.getvalue(), 80) == ["stopped immediately", ""]


def run_on_a_terminal(columns, steps, at_the_end, interrupt_at=None):
    code = RUN_ON_A_TERMINAL.replace("STEPS", str(steps)).replace("AT_THE_END", at_the_end)
    return screen.run(code, columns, interrupt_at)


def test_the_bar_and_the_results_fit_a_terminal_of_80_columns():
    *results, bar = run_on_a_terminal(80, 20, "import os; os._exit(0)")
    assert results == [
        "epoch   1/200  validation: top-1 50.00%, top-3 75.00%, top-5 100.00%, loss",
        "    12.3456, mean of 2 seeds with top-1 50.00 to 50.00%",
    ]
    assert re.fullmatch(
        r"epoch   \d/200, loss 12.3456, top-1 50.00%, 12,345 images/s, [\d:]+ left \|.{3,}\|", bar
    )


def test_a_wide_terminal_also_shows_the_steps():
    bar = run_on_a_terminal(120, 20, "import os; os._exit(0)")[-1]
    assert re.search(r"\d/2000 steps, .* images/s, [\d:]+ left$", bar)


def test_ctrl_c_leaves_no_trace_of_the_bar():
    at_the_end = "progress.close(); print('stopped at step 95', file=sys.stderr)"
    lines = run_on_a_terminal(80, 1000, at_the_end, interrupt_at="12,345 images/s")
    assert lines[-3:] == [
        "stopping after the next step; Ctrl-C again stops at once",
        "stopped at step 95",
        "",
    ]
    assert not any("^C" in line or "images/s" in line for line in lines)


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


@pytest.mark.parametrize(
    ("num_classes", "shown"),
    [(2, "top-1 50.00%, loss"), (5, "top-1 50.00%, top-3 75.00%, loss"), (6, "top-5 100.00%")],
)
def test_accuracies_that_are_100_in_any_case_are_not_shown(num_classes, shown):
    assert shown in format_results("test", [RESULTS], num_classes)


def test_equal_steps_are_shown_once():
    assert format_steps(16) == format_steps([16, 16, 16]) == "step 16"
    assert format_steps([32, 16, 48]) == "steps 16 to 48"
