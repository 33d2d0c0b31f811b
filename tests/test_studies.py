import dataclasses
import json
import re

import numpy as np
import pytest
import scipy.stats

from experiments import backbones, detection, inference_time, report, report_detection
from experiments import study as study_module
from experiments.compare import difference_text, paired_difference
from experiments.published import elsewhere_lines, published_cell, published_rows
from experiments.study import (
    SCALES,
    Cell,
    Study,
    read_result,
    result_path,
    run_study,
    same_config,
)
from se_flax import train as train_module
from se_flax.config import check_config
from se_flax.errors import UserError
from se_flax.train import RunInterrupted
from tests import tiny_run
from tests.conftest import ROOT

STUDIES = {study.name: study for study in report.STUDIES}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_of_every_study_can_be_run_and_reported(name, scale):
    study = STUDIES[name]
    cells = {cell.name: cell for cell in study.cells(scale)}
    assert len(cells) == len(study.cells(scale)) > 1
    published = published_rows()
    for cell in cells.values():
        check_config(cell.config)
        assert cell.baseline is None or cells[cell.baseline].baseline is None
        assert all(key in published for key in cell.published)
    missing = {cell.label: published_cell(cell) for cell in cells.values()}
    lines = report.not_run_lines(scale, missing)
    (line,) = (line for line in lines if line.count("Not run yet"))
    assert all(label in line for label in missing)
    assert all(figures in "".join(lines) for figures in missing.values() if figures != "-")


def test_every_published_result_is_shown_with_a_cell_or_in_the_table_of_other_networks():
    shown = {key for study in STUDIES.values() for c in study.cells("full") for key in c.published}
    shown |= {detection.published(label) for _, label, _ in detection.ROWS["full"]}
    shown |= {key for cell in inference_time.cells("full") for key in cell.published}
    assert not shown & set(backbones.ELSEWHERE)
    assert published_rows().keys() == shown | set(backbones.ELSEWHERE)
    page = "\n".join(elsewhere_lines(backbones.ELSEWHERE))
    assert "| svhn | ResNet-20 | 3.43 error | 3.23 error | +0.20 |" in page
    assert "| ResNeXt-101 32x4d | 79.47 ± 0.03 | 80.03 ± 0.11 | +0.56 |" in page


def test_detectors_are_shown_with_their_published_results(tmp_path):
    page = "\n".join(report.detection_section(tmp_path))
    assert "Not run yet (full): ResNet-50, SE-ResNet-50, ResNet-101, SE-ResNet-101" in page
    assert "| SE-ResNet-50 | AP50 61.0 (+3.1), AP 40.4 (+2.4) (arXiv:1709.01507" in page
    for name, ap in (("resnet50", 38.0), ("se_resnet50", 40.0)):
        final = dict.fromkeys(report_detection.METRICS, ap) | {"AP50": 1.5 * ap}
        result = {"parameters": 123, "runs": [], "results": [{"seed": 0, "final": final}]}
        path = result_path(tmp_path, detection.STUDY.name, "full", name)
        study_module.write_result(path, result)
    page = "\n".join(report.detection_section(tmp_path))
    assert "| SE-ResNet-50 | 123 | 60.0 | 40.0 | 40.0 |" in page
    assert "| 1 | +2.00 (one seed) | AP50 61.0 (+3.1)" in page
    assert "Not run yet (full): ResNet-101, SE-ResNet-101" in page


def cells_of_tiny(scale):
    config = tiny_run.get_config()
    config.num_epochs, config.batch_size = 2, 64
    plain = tiny_run.get_config()
    plain.num_epochs, plain.batch_size = 2, 64
    plain.model.name = "resnet20_cifar"
    del plain.model.overrides["reduction"]
    key = ("SE paper no squeeze", "imagenet2012", "NoSqueeze")
    return [
        Cell("plain", "digits", "ResNet-8", plain),
        Cell("se", "digits", "SE", config, "plain", (key,)),
    ]


TINY = Study("tiny", "Tiny", "Does it work?", cells_of_tiny, dict.fromkeys(SCALES, "tiny."))


def run(folder, seeds=2):
    run_study(TINY, "smoke", seeds, folder / "out", folder / "runs", note="Of a test.")


def page_of(folder, monkeypatch):
    monkeypatch.setattr(report, "STUDIES", (TINY,))
    # Only the time it took may differ.
    return re.sub(r"[\d,]+ seconds in total", "", report.report(folder / "out"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    run(folder)
    return folder


@pytest.mark.slow
def test_an_interrupted_study_redoes_nothing_and_reports_the_same(finished, tmp_path, monkeypatch):
    class StopAtStep5(train_module.Interrupt):
        steps = 0

        @property
        def requested(self):
            StopAtStep5.steps += 1
            return StopAtStep5.steps == 5

        @requested.setter
        def requested(self, value):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Interrupt", StopAtStep5)
        with pytest.raises(RunInterrupted, match="step 5"):
            run(tmp_path)
    assert not (tmp_path / "out").exists()

    begun = []
    original = study_module.train

    def stop_at_the_second(config, workdir, dataset):
        begun.append(workdir.parent.name)
        if workdir.parent.name == "se":
            raise RunInterrupted("stopped")
        return original(config, workdir, dataset)

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "train", stop_at_the_second)
        with pytest.raises(RunInterrupted):
            run(tmp_path)
    assert begun == ["plain", "se"]
    assert "(smoke, digits): SE" in page_of(tmp_path, monkeypatch)

    again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            study_module,
            "train",
            lambda config, workdir, dataset: (
                again.append(workdir.parent.name) or original(config, workdir, dataset)
            ),
        )
        run(tmp_path)
        run(tmp_path)
    assert again == ["se"]
    assert page_of(tmp_path, monkeypatch) == page_of(finished, monkeypatch)
    for figure in (finished / "out" / "figures").iterdir():
        other = tmp_path / "out" / "figures" / figure.name
        assert other.read_bytes() == figure.read_bytes()


def test_more_seeds_are_added_to_existing_ones(finished, tmp_path, monkeypatch):
    path = result_path(finished / "out", "tiny", "smoke", "se")
    two = read_result(path)
    seeds = []
    original = study_module.train
    monkeypatch.setattr(
        study_module,
        "train",
        lambda config, workdir, dataset: (
            seeds.append((config.seed, config.num_seeds)) or original(config, workdir, dataset)
        ),
    )
    copy = result_path(tmp_path / "out", "tiny", "smoke", "se")
    copy.parent.mkdir(parents=True)
    copy.write_text(path.read_text())
    run_study(TINY, "smoke", 3, tmp_path / "out", tmp_path / "runs", pattern="se")
    assert seeds == [(2, 1)]
    three = read_result(copy)
    assert [each["seed"] for each in three["results"]] == [0, 1, 2]
    assert three["results"][:2] == two["results"]


def test_a_result_records_what_it_depends_on(finished):
    result = read_result(result_path(finished / "out", "tiny", "smoke", "se"))
    assert result["config"]["model"]["name"] == "se_resnet20_cifar"
    (run_of_both,) = result["runs"]
    assert run_of_both["seeds"] == [0, 1]
    assert run_of_both["seconds"] > 0
    assert run_of_both["images"] == {"train": 256, "test": 64}
    assert {"device", "versions", "git_revision", "note"} <= run_of_both.keys()
    for each in result["results"]:
        assert {"step", "loss", "top1", "top3", "top5"} == each["final"].keys()
        assert len(each["curve"]["top1"]) == len(each["curve"]["train_loss"]) == 2
        assert each["curve"]["top1"][-1] == pytest.approx(each["final"]["top1"], abs=1e-3)
    assert result["parameters"] > 0


def test_results_of_another_config_are_not_added_to(finished, tmp_path):
    path = result_path(tmp_path, "tiny", "smoke", "plain")
    path.parent.mkdir(parents=True)
    result = read_result(result_path(finished / "out", "tiny", "smoke", "plain"))
    result["config"]["batch_size"] = 1
    path.write_text(json.dumps(result))
    with pytest.raises(UserError, match="results of another config"):
        run_study(TINY, "smoke", 2, tmp_path, tmp_path / "runs")


def test_a_run_of_another_config_is_not_used(finished, tmp_path, monkeypatch):
    def other_cells(scale):
        cells = cells_of_tiny(scale)
        cells[1].config.optimizer.learning_rate = 0.02
        return cells

    other = dataclasses.replace(TINY, cells=other_cells)
    with pytest.raises(UserError, match="could not be finished: se;"):
        run_study(other, "smoke", 2, tmp_path, finished / "runs")
    assert result_path(tmp_path, "tiny", "smoke", "plain").exists()
    assert not result_path(tmp_path, "tiny", "smoke", "se").exists()
    monkeypatch.setattr(report, "STUDIES", (other,))
    assert "(smoke, digits): SE" in report.report(finished / "out")


def test_results_from_before_a_field_came_to_configs_stay_valid(finished):
    result = read_result(result_path(finished / "out", "tiny", "smoke", "se"))
    (cell,) = (cell for cell in cells_of_tiny("smoke") if cell.name == "se")
    del result["config"]["seed_mode"]
    assert same_config(result, cell)
    result["config"]["ema_decay"] = 0.5
    assert not same_config(result, cell)


def test_the_confidence_interval_is_that_of_a_paired_t_test():
    generator = np.random.default_rng(0)
    ours, plain = generator.normal(70, 1, 5), generator.normal(69, 1, 5)
    difference = paired_difference(dict(enumerate(ours)), {**dict(enumerate(plain)), 9: 50.0})
    expected = scipy.stats.ttest_rel(ours, plain).confidence_interval(0.95)
    assert difference.mean == pytest.approx(np.mean(ours - plain))
    assert (difference.low, difference.high) == pytest.approx(tuple(expected))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired_difference({0: 71.0}, {0: 70.0})
    assert (one.mean, one.low) == (1.0, None)
    assert difference_text(one) == "+1.00 (one seed)"
    alike = paired_difference({0: 71.0, 1: 72.0}, {0: 70.0, 1: 71.0})
    assert difference_text(alike) == "+1.00 (the same for all seeds)"
    noisy = paired_difference({0: 70.0, 1: 71.0}, {0: 71.0, 1: 70.0})
    assert difference_text(noisy).endswith("within the noise")


def test_the_report_as_html_holds_its_figures(finished, monkeypatch):
    monkeypatch.setattr(report, "STUDIES", (TINY,))
    page = report.html(report.report(finished / "out"), finished / "out")
    assert "<table>" in page
    assert 'src="data:image/png;base64,' in page
    assert not re.search(r'src="(?!data:)', page)


def test_what_has_been_run_comes_first_in_the_report(finished, monkeypatch):
    monkeypatch.setattr(report, "STUDIES", (STUDIES["placement"], TINY))
    page = report.report(finished / "out")
    assert page.index("## Tiny\n") < page.index("## Placement\n")
    assert "| ResNet-8 |" in page
    # What has been published is kept, folded.
    folded = report.html(page, finished / "out").partition("<details>")[2]
    assert "<table>" in folded.partition("</details>")[0]


@pytest.mark.slow
def test_smoke_results_stay_out_of_the_results_of_the_repository(run_python, tmp_path):
    process = run_python(
        *("-m", "experiments.inference_time", "--scale=smoke", "--seeds=1", "--cells=*batch1"),
        f"--runs={tmp_path}",
    )
    assert process.returncode == 0, process.stderr
    name = "resnet20_cifar_32_batch1"
    assert result_path(tmp_path / "results", "inference_time", "smoke", name).exists()
    assert not result_path(ROOT / "experiments/results", "inference_time", "smoke", name).exists()


@pytest.mark.slow
def test_inference_is_timed_in_rounds(tmp_path, run_python):
    command = ("-m", "experiments.inference_time", "--scale=smoke", f"--out={tmp_path}")
    for seeds in (2, 3):
        process = run_python(*command, f"--seeds={seeds}", "--cells=*batch1")
        assert process.returncode == 0, process.stderr
    result = read_result(
        result_path(tmp_path, "inference_time", "smoke", "resnet20_cifar_32_batch1")
    )
    assert len(result["plain"]) == len(result["se"]) == 3
    assert [each["seeds"] for each in result["runs"]] == [[0, 1], [2]]
    page = "\n".join(report.inference_section(tmp_path))
    assert "Not run yet (smoke): ResNet-20, 32 pixels, batch 4" in page
    assert "| ResNet-20 | 32 | 1 |" in page
    assert "| ResNet-20 | 32 | 4 |" not in page


def test_a_study_is_a_command(run_command, tmp_path):
    process = run_command(
        *("experiments.variants", "--scale=smoke", "--seeds=1", "--cells=nothing"),
        *(f"--out={tmp_path / 'out'}", f"--runs={tmp_path / 'runs'}"),
    )
    assert process.returncode == 2
    assert "no cell of variants" in process.stderr
    assert not (tmp_path / "out").exists()
