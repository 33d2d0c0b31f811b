"""Runs of several processes, one of which stops or dies, and runs that share a workdir."""

import json
import signal
import time

import numpy as np
import psutil
import pytest

from tests.runs import (
    assert_same_result,
    end,
    final_state,
    finish,
    kill,
    logged,
    output_of,
    rows,
    start,
    start_processes,
    stopped_at,
    wait_for_row,
)

pytestmark = pytest.mark.faults

EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
# Shared statistics, so that no step depends on how devices are split among processes.
SHARED = ("--config.sync_batch_norm=True",)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The workdir of a run on eight devices in one process."""
    workdir = tmp_path_factory.mktemp("one_process")
    finish(workdir, SHARED, **EIGHT_DEVICES)
    return workdir


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The workdir of a run on two processes of four devices."""
    workdir = tmp_path_factory.mktemp("two_processes")
    for process in start_processes(workdir, 2, SHARED):
        end(process)
    return workdir


def losses(workdir):
    return np.array(logged(workdir, "train/loss"))


def assert_ends_alike(workdir, other):
    """Equal up to rounding, because two processes sum over devices in another order."""
    np.testing.assert_allclose(losses(workdir), losses(other), rtol=1e-3)
    assert len(losses(workdir)) == 66
    assert [json.loads(row)["step"] for row in rows(workdir)] == [
        json.loads(row)["step"] for row in rows(other)
    ]


def test_two_processes_follow_the_curve_of_one(one_process, two_processes):
    difference = np.abs(losses(two_processes) / losses(one_process) - 1)
    print(f"losses differ by at most {difference[:5].max():.1e}, and later {difference.max():.1e}")
    assert difference[:5].max() < 1e-5
    assert_ends_alike(two_processes, one_process)
    summary = json.loads((two_processes / "summary.json").read_text())
    assert (summary["device_count"], summary["process_count"]) == (8, 2)
    names = {path.name for path in one_process.iterdir() if not path.name.startswith("events")}
    assert {path.name for path in two_processes.iterdir()} - names == {
        path.name for path in two_processes.glob("events*")
    }
    assert len(list(two_processes.glob("events*"))) == 1


@pytest.mark.parametrize("others", [2, 1])
def test_a_run_continues_on_another_number_of_processes(tmp_path, one_process, others):
    """From one process to two, and from two to one."""

    def started(count):
        if count == 2:
            return start_processes(tmp_path, 2, SHARED)
        return [start(tmp_path, SHARED, **EIGHT_DEVICES)]

    processes = started(3 - others)
    wait_for_row(tmp_path, 20, processes[0])
    processes[0].send_signal(signal.SIGTERM)
    for process in processes:
        end(process, 75)
    first, *_ = [end(process) for process in started(others)]
    assert "continuing from step" in first
    assert_ends_alike(tmp_path, one_process)


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_processes_stop_at_the_same_step_when_one_is_asked_to(
    tmp_path, two_processes, asked, number
):
    stopped = 0
    for _ in range(2):  # started, then continued
        processes = start_processes(tmp_path, 2, SHARED)
        wait_for_row(tmp_path, len(rows(tmp_path)) + 12, processes[0])
        processes[asked].send_signal(number)
        asked_at = len(rows(tmp_path))
        outputs = [end(process, 75) for process in processes]
        assert f"continuing from step {stopped}" in outputs[0] or not stopped
        stopped, of_the_other = map(stopped_at, outputs)
        assert stopped == of_the_other
        print(f"stopped {len(rows(tmp_path)) - asked_at} rows after it was asked to")
        assert len(rows(tmp_path)) - asked_at < 12
    first, second = (end(process) for process in start_processes(tmp_path, 2, SHARED))
    assert f"continuing from step {stopped}" in first
    assert "epoch" not in second
    assert_same_result(tmp_path, two_processes)


def test_the_others_wait_for_the_last_save_however_long_it_takes(tmp_path, slow_disk):
    workdir = tmp_path / "run"
    options = (*SHARED, "--config.checkpoint_every_minutes=60.0")
    processes = start_processes(workdir, 2, options, **slow_disk(workdir, 0.7))
    wait_for_row(workdir, 2, processes[0])
    begun = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        assert "stopped at step" in end(process, 75)
    print(f"the processes stopped {time.monotonic() - begun:.0f} s after they were asked to")


def test_a_disk_failure_in_the_first_process_ends_all_processes(tmp_path, slow_disk):
    workdir = tmp_path / "run"
    processes = start_processes(workdir, 2, SHARED, **slow_disk(workdir, fails_one_in=1))
    wait_for_row(workdir, 10, processes[0])
    (tmp_path / "run.fails").touch()
    last = end(processes[0], 74).splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert "Input/output error; earlier checkpoints are intact" in last
    output_of(processes[1], 60)
    assert processes[1].returncode != 0


@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_process_ends_when_one_dies(tmp_path, two_processes, victim):
    processes = start_processes(tmp_path, 2, SHARED)
    wait_for_row(tmp_path, 20, processes[0])
    processes[victim].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    output = output_of(processes[1 - victim], 60)
    print(f"process {1 - victim} ended {time.monotonic() - begun:.0f} s after process {victim}")
    assert processes[1 - victim].returncode not in (0, None)
    assert "error" in output
    output_of(processes[victim])
    first, _ = (end(process) for process in start_processes(tmp_path, 2, SHARED))
    assert "continuing from step" in first
    assert_same_result(tmp_path, two_processes)


def test_processes_given_different_configs_are_refused(tmp_path):
    for process in start_processes(tmp_path, 2, SHARED, last=["--config.seed=1"]):
        assert (
            "process 1 has another config than process 0; start all processes with the same"
            in end(process, 2)
        )
    assert not list(tmp_path.iterdir())


def test_a_second_run_is_refused_until_the_first_has_died(tmp_path):
    first = start(tmp_path)
    wait_for_row(tmp_path, 5, first)
    *_, error = end(start(tmp_path), 2).splitlines()
    assert f"is being written to by process {first.pid} on" in error
    kill(first)
    assert "continuing from step" in finish(tmp_path)


def test_a_run_opens_no_network_port(tmp_path):
    process = start(tmp_path)
    wait_for_row(tmp_path, 5, process)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = [c for each in tree for c in each.net_connections() if c.status == "LISTEN"]
    assert not listening
    end(process)


def test_only_the_first_of_several_processes_opens_a_network_port(tmp_path):
    processes = start_processes(tmp_path, 2)
    wait_for_row(tmp_path, 5, processes[0])
    address = next(a for a in processes[0].args if a.startswith("--coordinator_address="))
    ports = [
        {c.laddr.port for c in psutil.Process(p.pid).net_connections() if c.status == "LISTEN"}
        for p in processes
    ]
    for process in processes:
        end(process)
    assert int(address.rpartition(":")[2]) in ports[0]
    print(f"ports listened on, by process: {[len(each) for each in ports]}")
    assert final_state(tmp_path) is not None
