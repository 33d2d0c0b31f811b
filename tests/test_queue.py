import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from experiments import budget, report
from experiments import queue as queue_module
from experiments.queue import Queue
from experiments.study import (
    SCALES,
    Cell,
    Study,
    read_cell,
    read_result,
    result_path,
    write_result,
)
from se_flax.errors import RunDiverged, UserError
from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.models.resnet import ResNet
from se_flax.optim import learning_rate_schedule
from se_flax.train import RunInterrupted
from tests import tiny_run
from tests.conftest import ROOT

SHARED = {
    "backbones/cifar10_resnet20": {
        *("placement/plain", "stage/plain", "squeeze_operator/plain", "excitation_operator/plain"),
        *("no_squeeze/plain", "ratio/plain", "variants/resnet20_cifar10_default"),
        "attention/plain",
    },
    "backbones/cifar10_resnet20_se": {
        *("placement/standard", "stage/all", "squeeze_operator/average"),
        *("excitation_operator/sigmoid", "no_squeeze/se", "ratio/ratio16"),
        *("variants/resnet20_cifar10_standard", "attention/se"),
    },
}
IN_ORDER = [
    *("backbones/cifar10_resnet20", "backbones/cifar10_resnet20_se"),
    *("placement/pre", "placement/post", "placement/identity"),
    *("stage/stage1", "stage/stage2", "stage/stage3"),
    *("squeeze_operator/maximum", "excitation_operator/relu", "excitation_operator/tanh"),
    "no_squeeze/no_squeeze",
    *(f"ratio/ratio{r}" for r in (1, 2, 4, 8, 32)),
    "variants/resnet20_cifar10_slow_squeeze",
    "variants/resnet20_cifar10_slow_excite",
    "variants/resnet20_cifar10_slow_squeeze_slow_excite",
    "variants/resnet20_cifar10_bump",
    *("backbones/cifar10_small_cnn", "backbones/cifar10_small_cnn_se"),
    *("attention/ese", "attention/eca", "attention/cbam"),
    *("attention/ge_theta_minus", "attention/ge_theta_plus", "attention/global_context"),
    "attention/selective_kernel",
]


def test_the_budget_scale_is_trained_seed_by_seed_and_each_network_once(tmp_path):
    jobs = [(seed, entry.name) for seed, entry in Queue("budget", 3, tmp_path).missing()]
    assert jobs == [(seed, name) for seed in range(3) for name in IN_ORDER]
    alike = {}
    for entry in queue_module.entries("budget"):
        alike.setdefault(entry.config, []).append(entry.name)
    shared = {first: set(others) for first, *others in alike.values() if others}
    assert shared == SHARED


def test_all_resnet20_of_the_budget_scale_have_the_same_recipe():
    recipes, overrides = set(), []
    for entry in queue_module.entries("budget"):
        if entry.backbone == "resnet20_cifar":
            config = json.loads(entry.config)
            overrides.append(config.pop("model")["overrides"])
            recipes.add(json.dumps(config))
    (recipe,) = map(json.loads, recipes)
    assert recipe["dataset"]["name"] == "cifar10"
    assert recipe["validation_fraction"] == 0
    assert len(overrides) == 44
    assert not any("stage_sizes" in each for each in overrides)  # full depth

    config = budget.resnet20_config(se=True)
    rate = learning_rate_schedule(config.schedule, budget.LEARNING_RATE, config.num_epochs, 390)
    rates = np.array([rate(step) for step in range(10 * 390 + 1)])
    assert np.argmax(rates) == 390
    assert rates[390] == pytest.approx(budget.LEARNING_RATE)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_what_budget_configs_leave_out_is_what_networks_have_without_it():
    for field, value in budget.DEFAULTS.items():
        owner = ResNet if field == "se_placement" else SqueezeExcite
        assert getattr(owner, field) == value
    config = budget.resnet20_config(se=True, gate="sigmoid", squeeze="max", reduction=4)
    assert config.model.overrides.to_dict() == {
        "zero_init": False,
        "squeeze": "max",
        "reduction": 4,
    }


def test_a_study_refuses_a_scale_that_it_does_not_have(run_command, tmp_path):
    process = run_command("experiments.inference_time", "--scale=budget", f"--out={tmp_path}")
    assert process.returncode == 2
    assert "inference_time has no scale budget; it has" in process.stderr


def tiny_cells(*reductions):
    def cells(scale):
        result = []
        for name, reduction in {"plain": None, **{f"r{r}": r for r in reductions}}.items():
            config = tiny_run.get_config()
            config.num_epochs, config.batch_size = 1, 64
            if reduction is None:
                config.model.name = "resnet20_cifar"
                del config.model.overrides["reduction"]
            else:
                config.model.overrides.reduction = reduction
            result.append(Cell(name, "digits", name, config, "plain" if reduction else None))
        return result

    return cells


DESCRIBED = dict.fromkeys(SCALES, "tiny.")
ONE = Study("one", "One", "?", tiny_cells(1), DESCRIBED)
TWO = Study("two", "Two", "?", tiny_cells(1, 2), DESCRIBED)
FIRST_SEED = ["one/plain", "one/r1", "two/r2"]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Two studies that share two networks; returns a function that makes a queue of them."""
    monkeypatch.setattr(queue_module, "ORDER", ((ONE, "*"), (TWO, "*")))
    return lambda seeds=2, **choice: Queue("smoke", seeds, tmp_path / "out", **choice)


@pytest.fixture
def trained(monkeypatch):
    """Replaces training; returns the list of (name, seed) that were trained.

    A function in `trained.before` is called with (name, seed) before each training.
    """

    class Trained(list):
        before = staticmethod(lambda name, seed: None)

    trained = Trained()

    def pretend(study, scale, cell, first, count, out, runs, note=""):
        name = f"{study.name}/{cell.name}"
        trained.before(name, first)
        result = read_cell(study, scale, cell, out)
        result["parameters"], result["multiply_adds"] = 7, 8
        result["runs"].append({"seeds": [first], "seconds": 3600.0 if "plain" in name else 7200.0})
        result["results"].append({"seed": first, "final": {"top1": 50.0 + first}})
        write_result(result_path(out, study.name, scale, cell.name), result)
        trained.append((name, first))
        return result

    monkeypatch.setattr(queue_module, "train_seeds", pretend)
    return trained


def outcomes(queue):
    rows = map(json.loads, queue.log.read_text().splitlines())
    return [(row["cell"], row["seed"], row["outcome"]) for row in rows]


@pytest.mark.slow
def test_a_shared_network_is_trained_once_and_its_results_say_where_they_come_from(
    tiny, tmp_path, monkeypatch
):
    queue = tiny(seeds=1)
    queue.run(tmp_path / "runs", note="Of a test.")
    for name in ("plain", "r1"):
        original = read_result(result_path(queue.out, "one", "smoke", name))
        copy = read_result(result_path(queue.out, "two", "smoke", name))
        assert copy == {
            **original,
            "study": "two",
            "runs": [{"copied_from": f"one/{name}", **original["runs"][0]}],
        }
        assert original["results"][0]["final"]["top1"] > 0
    assert not list((tmp_path / "runs").glob("two/*/plain"))
    for row in map(json.loads, queue.log.read_text().splitlines()):
        study, cell = row["cell"].split("/")
        result = read_result(result_path(queue.out, study, "smoke", cell))
        assert row["top1"] == result["results"][0]["final"]["top1"]
        assert row["revision"] == result["runs"][0]["git_revision"]
        assert row["seconds"] >= result["runs"][0]["seconds"] > 0

    monkeypatch.setattr(report, "STUDIES", (ONE, TWO))
    page = report.report(queue.out)
    assert page.count("The same runs as those of one/plain, not trained again.") == 1


def test_a_stopped_queue_continues_with_what_is_missing(tiny, trained, tmp_path):
    def stop(name, seed):
        if (name, seed) == ("one/plain", 1):
            raise RunInterrupted("stopped at step 5")

    trained.before, queue = stop, tiny()
    with pytest.raises(RunInterrupted, match="step 5"):
        queue.run(tmp_path / "runs")
    assert trained == [(name, 0) for name in FIRST_SEED]
    finished = [(name, 0, "finished") for name in FIRST_SEED]
    assert outcomes(queue) == [*finished, ("one/plain", 1, "stopped")]

    trained.clear()
    trained.before = lambda name, seed: None
    tiny().run(tmp_path / "runs")
    assert trained == [(name, 1) for name in FIRST_SEED]
    trained.clear()
    tiny().run(tmp_path / "runs")
    assert not trained
    tiny(seeds=3).run(tmp_path / "runs")
    assert trained == [(name, 2) for name in FIRST_SEED]
    for study, cell in (("one", "plain"), ("two", "plain"), ("two", "r1"), ("two", "r2")):
        result = read_result(result_path(queue.out, study, "smoke", cell))
        assert [each["seed"] for each in result["results"]] == [0, 1, 2]


def test_a_signal_during_the_last_step_of_a_run_stops_the_queue_after_it(tiny, trained, tmp_path):
    trained.before = lambda name, seed: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(RunInterrupted, match="continues"):
        tiny().run(tmp_path / "runs")
    assert trained == [("one/plain", 0)]
    assert "two/plain" in "\n".join(tiny().table())
    assert read_result(result_path(tmp_path / "out", "two", "smoke", "plain"))


def test_a_failed_run_is_noted_and_does_not_stop_the_others(tiny, trained, tmp_path):
    def fail(name, seed):
        if (name, seed) == ("one/r1", 0):
            raise RunDiverged("the loss is not finite")

    trained.before, queue = fail, tiny()
    with pytest.raises(UserError, match="could not be finished: one/r1, seed 0;"):
        queue.run(tmp_path / "runs")
    assert len(trained) == 5
    assert ("one/r1", 0, "failed") in outcomes(queue)
    assert "the loss is not finite" in queue.log.read_text()
    assert "failed   51.00    one/r1, two/r1" in queue.table()


def test_a_second_queue_with_the_same_results_is_refused(tiny, trained, tmp_path):
    refused = []

    def start_another(name, seed):
        with pytest.raises(UserError, match="another queue is already running") as error:
            tiny().run(tmp_path / "other runs")
        refused.append(error)

    trained.before = start_another
    tiny().run(tmp_path / "runs")
    assert len(refused) == len(trained) == 6
    trained.before = lambda name, seed: None
    tiny(seeds=3).run(tmp_path / "runs")  # a lock that nobody holds is no hindrance


def test_the_list_shows_what_is_done_what_is_next_and_how_long_it_takes(tiny, trained, tmp_path):
    assert tiny().table() == [
        "seed 0   seed 1 ",
        "-        -        one/plain, two/plain",
        "-        -        one/r1, two/r1",
        "-        -        two/r2",
        "0 of 6 runs finished",
        "next: one/plain, seed 0",
    ]
    tiny(seeds=1, cells="plain").run(tmp_path / "runs")
    tiny(seeds=1, studies="one").run(tmp_path / "runs")
    # An hour for the plain network; two for r1; for r2 the mean of both, as it has the same body.
    assert tiny().table()[1:] == [
        "50.00    -        one/plain, two/plain",
        "50.00    -        one/r1, two/r1",
        "-        -        two/r2",
        "2 of 6 runs finished; the rest takes about 6 h 0 min",
        "next: two/r2, seed 0",
    ]
    tiny().run(tmp_path / "runs")
    assert tiny().table()[-1] == "6 of 6 runs finished"


def test_studies_and_cells_are_chosen_by_patterns(tiny, trained, tmp_path):
    tiny(studies="tw*", cells="r*", seeds=1).run(tmp_path / "runs")
    assert trained == [("two/r1", 0), ("two/r2", 0)]
    assert read_result(result_path(tmp_path / "out", "one", "smoke", "r1")) is None
    tiny(studies="one", seeds=1).run(tmp_path / "runs")  # takes r1 from the other study
    assert trained[2:] == [("one/plain", 0)]
    with pytest.raises(UserError, match='no study with the scale smoke is called "three"; there'):
        tiny(studies="three")
    with pytest.raises(UserError, match=r'no cell of these studies is called "x"; .*two/r2'):
        tiny(cells="x")


def test_results_of_another_config_are_not_copied(tiny, trained, tmp_path):
    tiny(seeds=1).run(tmp_path / "runs")
    path = result_path(tmp_path / "out", "one", "smoke", "plain")
    result = read_result(path)
    result["config"]["batch_size"] = 1
    write_result(path, result)
    with pytest.raises(UserError, match="results of another config of plain"):
        tiny().run(tmp_path / "runs")
    assert len(trained) == 3


def test_the_queue_is_a_command(run_python, tmp_path):
    process = run_python("-m", "experiments.queue", "--scale=budget", "--list", f"--out={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith(
        "0 of 90 runs finished\nnext: backbones/cifar10_resnet20, seed 0\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_queue_has_the_lowest_priority():
    code = (
        "import os\n"
        "from experiments.processes import AUTOGROUP, lower_priority\n"
        "lower_priority()\n"
        "group = AUTOGROUP.read_text() if AUTOGROUP.exists() else 'nice 19'\n"
        "print(os.nice(0), group, flush=True)\n"
        "os._exit(0)  # at this priority, an orderly exit can take a minute\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,  # the session of these tests keeps its priority
    )
    assert process.stdout.startswith("19 ")
    assert "nice 19" in process.stdout


@pytest.mark.slow
def test_runs_in_processes_end_in_the_results_of_runs_in_turn(tmp_path):
    results = {}
    for processes in (1, 2):
        choice = {"studies": "no_squeeze", "cells": "no_squeeze"}
        queue = Queue("smoke", 2, tmp_path / f"out{processes}", **choice)
        queue.run(tmp_path / f"runs{processes}", processes=processes)
        results[processes] = queue.read(queue.entries[0])["results"]
        rows = sorted(outcomes(queue))
        assert rows == [("no_squeeze/no_squeeze", seed, "finished") for seed in (0, 1)]
    assert results[1] == results[2]
    output = tmp_path / "runs2" / "output" / "no_squeeze_no_squeeze_0.txt"
    assert "first step done" in output.read_text()
