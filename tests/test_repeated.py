"""The comparison of a run with the same run trained again."""

import json
import shutil

import pytest

from experiments.repeated import FILE, compared, repeated_section
from se_flax import load_run
from se_flax.errors import UserError
from se_flax.train import train
from tests import tiny_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, stripes):
    """Workdirs of a tiny run, the same run again, and with another seed."""
    config = tiny_run.get_config()
    config.batch_size, config.num_epochs, config.schedule.milestones = 16, 1, ()
    folder = tmp_path_factory.mktemp("runs")
    workdirs = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        config.seed = seed
        train(config, folder / name, stripes)
        workdirs.append(folder / name)
    return workdirs


def test_a_run_and_the_same_again_have_the_same_bits(runs, tmp_path):
    first, again, _ = runs
    row = compared(first, again, "on two cores")
    assert row["same_bits"]
    assert row["top1"][0] == json.loads((first / "summary.json").read_text())["final"]["top1"]
    (tmp_path / FILE).write_text(json.dumps([row, {**row, "same_bits": False}]))
    lines = repeated_section(tmp_path)
    yes, no = (line for line in lines if "on two cores" in line)
    assert yes.endswith("| yes |")
    assert no.endswith("| no |")


def test_other_parameters_are_noticed(runs, tmp_path):
    first, _, other = runs
    changed = tmp_path / "changed"
    shutil.copytree(other, changed)
    for name in ("summary.json", "config.json"):
        shutil.copy(first / name, changed / name)
    assert load_run(changed, "latest")
    assert not compared(first, changed, "")["same_bits"]


def test_runs_that_are_not_the_same_are_refused(runs, tmp_path):
    first, _, other = runs
    with pytest.raises(UserError, match="the runs differ in seed: 0 and 1"):
        compared(first, other, "")
    with pytest.raises(UserError, match="holds no finished run"):
        compared(first, tmp_path, "")
