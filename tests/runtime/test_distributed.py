import concurrent.futures
import json

import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.runtime import distributed
from tests.runs import end, finish, free_address, logged, start_processes

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_PROCID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "2"}, "Slurm"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a script of sbatch, without srun
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_the_environment_shows_what_started_several_processes(monkeypatch, environment, expected):
    monkeypatch.setattr(distributed.os, "environ", environment)
    assert distributed.scheduler() == expected


@pytest.mark.parametrize(
    ("environment", "arguments", "expected"),
    [
        ({}, (None, None, None), None),
        ({}, ("host:1", 2, 1), ("host:1", 2, 1, None)),
        ({"SLURM_STEP_NUM_TASKS": "2"}, (None, None, None), (None, None, None, None)),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4"}, ("host:1", None, None), ("host:1", 4, 2, [1])),
    ],
)
def test_jax_is_given_what_it_cannot_detect(monkeypatch, environment, arguments, expected):
    monkeypatch.setattr(distributed.os, "environ", environment)
    calls = []
    monkeypatch.setattr(
        distributed.jax.distributed, "initialize", lambda *given, **_: calls.append(given)
    )
    distributed.join(*arguments)
    assert calls == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", None, None), "--num_processes and --process_id missing"),
        (("host", 2, 0), 'must be HOST:PORT, not "host"'),
        (("host:1", 2, 2), "--process_id must be from 0 to 1, not 2"),
    ],
)
def test_arguments_that_describe_no_run_of_several_processes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.join(*arguments)


def test_a_single_process_sends_nothing():
    assert distributed.from_first(lambda: {"a": (1,)}) == {"a": (1,)}
    array = np.arange(3)
    assert distributed.arrays_from_first({"x": array}, {})["x"] is array
    distributed.check_same("config", object())


@pytest.mark.slow
def test_two_processes_follow_one_and_continue_from_its_checkpoint(tmp_path):
    options = ("--config.sync_batch_norm=True", "--config.schedule.name=constant")
    options += ("--config.schedule.warmup_epochs=0", "--config.num_epochs=2")
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    finish(tmp_path / "one", options, **eight)
    finish(tmp_path / "two", (*options[:-1], "--config.num_epochs=1"), **eight)
    first, second = (end(each) for each in start_processes(tmp_path / "two", 2, options))
    assert "continuing from step 11" in first
    assert "epoch" not in second  # only the first reports progress
    assert len(logged(tmp_path / "two", "train/loss")) == 22
    np.testing.assert_allclose(
        logged(tmp_path / "two", "train/loss"), logged(tmp_path / "one", "train/loss"), rtol=1e-5
    )
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert (summary["device_count"], summary["process_count"]) == (8, 2)


def test_the_first_process_sends_the_others_its_numbers_bit_by_bit(run_python):
    code = (
        "import sys, numpy as np, jax\n"
        "from se_flax.runtime.distributed import *\n"
        "join(sys.argv[1], 2, int(sys.argv[2]))\n"
        "mine = {'a': np.array([-0.0, np.nan, 1e-45], np.float32), 'b': np.uint8([[1, 255, 3]]),\n"
        "        'c': np.array(2**32 - 1, np.uint32), 'd': np.zeros((0, 2))}\n"
        "like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in mine.items()}\n"
        "got = arrays_from_first(mine if is_first() else None, like)\n"
        "assert list(got) == list(mine)\n"
        "for name, x in mine.items():\n"
        "    assert (got[name].dtype, got[name].shape) == (x.dtype, x.shape)\n"
        "    assert got[name].tobytes() == x.tobytes()\n"
        "assert from_first(lambda: {'π': [jax.process_index(), None]}) == {'π': [0, None]}\n"
        "def fail(): raise UserError('no')\n"
        "try:\n    from_first(fail)\nexcept UserError as error:\n    assert str(error) == 'no'\n"
        "else:\n    raise AssertionError\n"
        "assert on_all(jax.process_index) == jax.process_index()\n"
        "def fail_in_second():\n    if not is_first():\n        raise UserError('mine')\n"
        "try:\n    on_all(fail_in_second)\nexcept UserError as error:\n"
        "    expected = 'process 1 of this run cannot start' if is_first() else 'mine'\n"
        "    assert expected in str(error)\nelse:\n    raise AssertionError\n"
        "print('well')\n"
    )
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        each = pool.map(lambda i: run_python("-c", code, address, str(i)), range(2))
    for process in each:
        assert "well" in process.stdout, process.stderr
