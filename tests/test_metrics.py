import json

import numpy as np
import pytest

from se_flax.errors import RunDiverged
from se_flax.metrics import Meter, Metrics, Skipped
from se_flax.monitor import Monitor


def metrics(loss, top1):
    return Metrics(*(np.float32(value) for value in (loss, top1, top1, top1, 4, 0)), np.zeros(3))


def left_out(step):
    return Metrics(*np.zeros(5), np.float32(1), np.array([step, np.nan, 7.0]))


def test_a_row_is_the_mean_since_the_previous_row():
    meter = Meter()
    meter.add(metrics(8.0, 1))
    meter.add(metrics(4.0, 3))
    assert meter.finish_row() == {"loss": 1.5, "top1": 50.0, "top3": 50.0, "top5": 50.0}
    assert meter.means()["loss"] == 1.5
    meter.add(metrics(2.0, 4))
    assert meter.finish_row()["loss"] == 0.5


def test_another_meter_continues_a_row():
    meter = Meter()
    meter.add(metrics(8.0, 1))
    other = Meter(json.loads(json.dumps(meter.state())))
    other.add(metrics(4.0, 3))
    assert other.finish_row()["loss"] == 1.5


def test_consecutive_skipped_updates_are_counted_across_rows_and_restarts():
    meter = Meter()
    for update in (left_out(0), metrics(1.0, 1), left_out(2)):
        meter.add(update)
    assert meter.first_skipped.step == 0
    meter.finish_row()
    assert meter.first_skipped is None
    meter = Meter(json.loads(json.dumps(meter.state())))
    meter.add(left_out(3))
    assert (meter.skipped, meter.skipped_in_a_row) == (3, 2)
    assert meter.first_in_a_row == Skipped(2, pytest.approx(np.nan, nan_ok=True), 7.0)
    meter.add(metrics(1.0, 1))
    assert (meter.skipped, meter.skipped_in_a_row) == (3, 0)


def monitor_of_two(*dispatches):
    monitor = Monitor((3, 4), read=list)
    for dispatch in dispatches:
        monitor.add(dispatch, images=8)
    return monitor


def test_the_result_of_a_dispatch_is_read_after_the_next_is_issued():
    monitor = monitor_of_two((metrics(8.0, 1), metrics(4.0, 1)))
    assert np.isnan(monitor.means()["loss"])
    monitor.add((metrics(8.0, 1), metrics(4.0, 1)), images=8)
    assert monitor.means()["loss"] == 1.5
    rows = monitor.finish_row()
    assert [row["loss"] for row in rows] == [2.0, 1.0]


def test_a_network_that_diverges_is_named_with_step_and_learning_rate():
    monitor = monitor_of_two((metrics(1.0, 1), left_out(5)))
    monitor.check_finite(lambda step: 0.1, skips=False)
    monitor.read()
    message = "at step 6 of seed 4: loss nan, gradient norm 7, learning rate 0.5"
    with pytest.raises(RunDiverged, match=message):
        monitor.check_finite(lambda step: step / 10, skips=False)
    monitor.check_finite(lambda step: 0.1, skips=True)


def test_a_hundred_consecutive_skipped_updates_end_a_run():
    monitor = monitor_of_two(*((metrics(1.0, 1), left_out(step)) for step in range(100)))
    monitor.check_finite(lambda step: 0.1, skips=True)
    monitor.read()
    with pytest.raises(RunDiverged, match=r"at step 1 of seed 4.*none of 100 updates"):
        monitor.check_finite(lambda step: 0.1, skips=True)
