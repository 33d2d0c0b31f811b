import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from experiments import (
    backbones,
    excitation_operator,
    gates,
    no_squeeze,
    placement,
    report,
    report_figures,
    report_gates,
    report_summary,
    stage,
)
from experiments.compare import Interval
from experiments.study import result_path, write_result
from se_flax import create_model
from se_flax.errors import UserError
from se_flax.workdir import config_as_json

RUN = {
    "dataset": "cifar10",
    "images": {"train": 50000, "test": 10000},
    "seconds": 1.0,
    "device": "made up",
    "device_count": 1,
    "versions": {"jax": "0", "flax": "0"},
    "git_revision": None,
    "note": "",
}
PLAIN = [86.0, 87.0, 86.5]


def write(out, study, **top1):
    """Writes made-up results of cells, from the top-1 accuracy of each seed."""
    for cell in study.cells("budget"):
        if cell.name in top1:
            results = [
                {
                    "seed": seed,
                    "final": {"loss": 0.4, "top1": value},
                    "curve": {"step": [1, 2], "train_loss": [1, 0.5], "top1": [50.0, value]},
                }
                for seed, value in enumerate(top1[cell.name])
            ]
            run = {**RUN, "seeds": list(range(len(results)))}
            result = {"config": config_as_json(cell.config), "runs": [run], "results": results}
            result |= {"parameters": 1000, "multiply_adds": 1e6}
            write_result(result_path(out, study.name, "budget", cell.name), result)


def sentence(out, study):
    """Returns the summary's line on a study."""
    lines = report_summary.summary_lines((study,), out)
    (line,) = (line for line in lines if line.startswith(f"- [{study.title}]"))
    return line


def forest(out, *studies):
    """Returns the rows of the summary's figure."""
    return report_summary.forest_rows([report_summary.Compared.of(study, out) for study in studies])


def test_a_gain_beyond_the_noise_is_called_a_gain(tmp_path):
    write(tmp_path, backbones.STUDY, cifar10_resnet20=PLAIN, cifar10_resnet20_se=[87.0, 88.1, 87.4])
    line = sentence(tmp_path, backbones.STUDY)
    assert "SE raises the top-1 of ResNet-20: +1.00 [+0.75, +1.25]." in line
    assert "noise" not in line
    # The published network of this depth has no gain, and the sentence does not hide it.
    assert "A public reproduction shows no gain: 6.01% error" in line


def test_a_difference_whose_interval_contains_0_is_said_to_be_noise(tmp_path):
    write(tmp_path, backbones.STUDY, cifar10_resnet20=PLAIN, cifar10_resnet20_se=[87.0, 86.9, 86.9])
    line = sentence(tmp_path, backbones.STUDY)
    assert "What SE changes in ResNet-20 is within the noise: +0.43 [-0.9" in line
    assert "A public reproduction shows no gain, either: 6.01% error of SE-ResNet-20, 5.97%" in line
    assert "raise" not in line


def test_a_single_seed_is_named_as_such(tmp_path):
    write(tmp_path, backbones.STUDY, cifar10_resnet20=PLAIN, cifar10_resnet20_se=[86.6])
    line = sentence(tmp_path, backbones.STUDY)
    assert "without an interval, SE raises the top-1 of ResNet-20: +0.60 (one seed)." in line


@pytest.mark.parametrize(
    ("top1", "says"),
    [
        ([85.0, 86.1, 85.4], "SE lowers the top-1 of ResNet-20: -1.00 [-1.25, -0.75]."),
        ([85.0], "without an interval, SE does not raise the top-1 of ResNet-20: -1.00 (one seed)"),
    ],
)
def test_where_se_is_worse_the_summary_says_so(tmp_path, top1, says):
    write(tmp_path, backbones.STUDY, cifar10_resnet20=PLAIN, cifar10_resnet20_se=top1)
    line = sentence(tmp_path, backbones.STUDY)
    assert says in line
    assert "A public reproduction shows no gain, either" in line


def test_seeds_that_agree_by_chance_are_no_proof(tmp_path):
    write(tmp_path, backbones.STUDY, cifar10_resnet20=PLAIN, cifar10_resnet20_se=[86.5, 87.5, 87])
    line = sentence(tmp_path, backbones.STUDY)
    assert "As far as can be told without an interval, SE raises" in line
    assert "+0.50 (the same for all 3 seeds)" in line


def test_the_best_and_the_worst_placement_are_compared_with_each_other(tmp_path):
    cells = {"pre": [87.0, 88.1, 87.4], "post": [85.0, 85.9, 85.6], "identity": [86.2, 86.8, 86.6]}
    write(tmp_path, placement.STUDY, plain=PLAIN, standard=[86.3, 86.9, 86.6], **cells)
    line = sentence(tmp_path, placement.STUDY)
    assert "network: before the convolutions (SE-PRE), +1.00 [+0.75, +1.25]; worst: after" in line
    assert "worst: after the sum (SE-POST), -1.00 [-1.25, -0.75]." in line
    assert "The difference between them is +2.00 [" in line
    assert "The usual block: before the sum (standard), +0.10 [" in line
    assert line.endswith(
        "Intervals that exclude 0: before the convolutions (SE-PRE), after the sum (SE-POST)."
    )


def test_stages_that_do_not_differ_are_not_ranked_without_a_warning(tmp_path):
    write(tmp_path, stage.STUDY, plain=PLAIN, stage1=[86.9, 86.8, 86.8], stage3=[86.0, 87.2, 86.2])
    line = sentence(tmp_path, stage.STUDY)
    assert "The difference between them is within the noise: +" in line
    assert "All intervals of differences from the plain network contain 0." in line


def test_operators_are_compared_with_the_usual_one(tmp_path):
    write(tmp_path, no_squeeze.STUDY, plain=PLAIN, se=PLAIN, no_squeeze=[85.0, 86.1, 85.4])
    line = sentence(tmp_path, no_squeeze.STUDY)
    assert "without the squeeze: -1.00 [-1.25, -0.75] compared with SE-ResNet-20; -1.00" in line
    write(tmp_path, excitation_operator.STUDY, plain=PLAIN, relu=[84.0, 85], sigmoid=[87.0, 88.4])
    line = sentence(tmp_path, excitation_operator.STUDY)
    assert "worst: relu, -2.00 (the same for all 2 seeds)" in line


def test_the_figure_draws_a_network_once_and_is_small(tmp_path):
    write(tmp_path, backbones.STUDY, cifar10_resnet20=PLAIN, cifar10_resnet20_se=[87.0, 88.1, 87.4])
    write(tmp_path, placement.STUDY, plain=PLAIN, standard=[87.0, 88.1, 87.4], pre=[86.0])
    rows = forest(tmp_path, backbones.STUDY, placement.STUDY)
    assert [row.label for row in rows] == ["SE-ResNet-20", "before the convolutions (SE-PRE)"]
    assert rows[0].seeds == pytest.approx([1.0, 1.1, 0.9])
    assert rows[1].change == Interval(0.0, None, None)
    report_summary.summary_lines((backbones.STUDY, placement.STUDY), tmp_path)
    path = tmp_path / "figures" / report_summary.FIGURE
    assert path.stat().st_size < 60_000
    assert 800 < Image.open(path).width < 1200


def test_the_figure_draws_every_study_however_many_there_are(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report_figures, "save_png", lambda figure, *_, **__: drawn.append(figure))
    change = Interval(1.0, 0.5, 1.5)
    rows = [report_figures.ForestRow(f"study {i}", f"cell {i}", [1.0], change) for i in range(12)]
    report_figures.draw_forest(rows, tmp_path / "forest.png")
    axis = drawn[0].axes[0]
    assert [text.get_text() for text in axis.texts] == [row.group for row in rows]
    assert [label.get_text() for label in axis.get_yticklabels()] == [row.label for row in rows]


def test_the_summary_says_what_its_intervals_do_not_show(tmp_path):
    few, many = [86.9, 87.8, 87.0], [88.0, 89.01, 88.4]
    write(tmp_path, placement.STUDY, plain=PLAIN, pre=many, post=few)
    path = result_path(tmp_path, "placement", "budget", "post")
    result = json.loads(path.read_text())
    result["runs"][0]["git_revision"] = "another"
    write_result(path, result)
    (row,) = (each for each in forest(tmp_path, placement.STUDY) if "POST" in each.label)
    differences = np.array(few) - PLAIN
    assert row.change.p_value == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue)
    assert 0.025 < row.change.p_value < 0.05  # below the usual limit, but not half of it
    page = "\n".join(report_summary.summary_lines((placement.STUDY,), tmp_path))
    assert "2 networks are compared" in page
    assert "Bonferroni correction, before the convolutions (SE-PRE) would differ" in page
    assert "In 3 of 6 pairs, the two networks were trained with different revisions" in page


def test_the_page_begins_with_the_summary_and_links_to_its_tables(tmp_path, monkeypatch):
    write(tmp_path, placement.STUDY, plain=PLAIN, pre=[87.0, 88.1, 87.4], post=[86.0])
    monkeypatch.setattr(report, "STUDIES", (stage.STUDY, placement.STUDY))
    page = report.report(tmp_path)
    assert page.index("## What SE did here") < page.index("## How to read") < page.index("**CIFAR")
    assert "(#placement-budget)" in page
    assert 'id="placement-budget"' in report.html(page, tmp_path)
    # A study without results has no figure.
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert all(name in page for name in names)
    assert not any(name.startswith("stage") for name in names)


def test_without_results_of_its_scale_there_is_no_summary(tmp_path):
    assert report_summary.summary_lines(report.STUDIES, tmp_path) == []


@pytest.fixture(scope="module")
def tiny():
    """A small SE-ResNet with random weights, a batch of images, and mostly its own answers."""
    model = create_model("se_resnet20_cifar", 5, stage_sizes=(1, 1), widths=(4, 8))
    colours = jax.random.normal(jax.random.key(4), (40, 1, 1, 3))
    images = colours + jax.random.normal(jax.random.key(1), (40, 8, 8, 3))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images[:1])
    leaves, structure = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [x + jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    variables = variables | {"params": jax.tree.unflatten(structure, noisy)}
    logits = np.asarray(model.apply(variables, images, train=False))
    variables["params"]["classifier"]["bias"] -= logits.mean(0)
    labels = (logits - logits.mean(0)).argmax(-1)
    labels[:5] = np.arange(5)  # so that each class has an image
    return model, variables, images, labels


def with_constant_gates(variables, means):
    """Returns weights whose gates are constant: sigmoid(0 z + b) with b = log(m / (1 - m))."""
    variables = jax.tree.map(lambda x: x, variables)
    for name, mean in means.items():
        unit, _ = name.split("/")
        expand = variables["params"][unit]["se"]["expand"]
        expand["kernel"] = jnp.zeros_like(expand["kernel"])
        expand["bias"] = jnp.log(mean / (1 - mean))
    return variables


@pytest.mark.parametrize("names", [["stage1_unit1/se"], ["stage1_unit1/se", "stage2_unit1/se"]])
def test_replaced_gates_give_the_logits_of_constant_gates(tiny, names):
    model, variables, images, _ = tiny
    widths = {"stage1_unit1/se": 4, "stage2_unit1/se": 8}
    means = {name: jnp.linspace(0.1, 0.9, widths[name]) for name in names}
    direct = model.apply(with_constant_gates(variables, means), images, train=False)
    replaced = gates.replaced_gates(model, variables, images, means)
    np.testing.assert_allclose(replaced, direct, rtol=1e-4, atol=1e-4)
    assert np.abs(direct - model.apply(variables, images, train=False)).max() > 0.1


def test_what_constant_gates_change_is_counted_image_by_image(tiny):
    model, variables, images, labels = tiny
    batches = [(images[:25], labels[:25]), (images[25:], labels[25:])]
    numbers, blocks = gates.examine(model, variables, batches, 5)
    sown = model.apply(variables, images, train=False, mutable=["intermediates"])[1]
    means = {
        f"{unit}/se": np.mean(each["se"]["excitation"][0], axis=0)
        for unit, each in sown["intermediates"].items()
    }

    def top1(means):
        logits = model.apply(with_constant_gates(variables, means), images, train=False)
        return float(100 * np.mean(np.argmax(logits, -1) == labels))

    assert numbers["top1"] == pytest.approx(top1({}))
    assert numbers["images"] == 40
    stage1 = {"stage1_unit1/se": means["stage1_unit1/se"]}
    stage2 = {"stage2_unit1/se": means["stage2_unit1/se"]}
    expected = {"stage 1": top1(stage1), "stage 2": top1(stage2), "all stages": top1(means)}
    assert {k: v["top1"] for k, v in numbers["replaced"].items()} == pytest.approx(expected)
    assert expected["stage 2"] < numbers["top1"]
    for name, block in blocks.items():
        np.testing.assert_allclose(block.mean[-1], means[name], rtol=1e-4)


def test_the_interval_of_a_change_is_that_of_a_mean_of_paired_images():
    generator = np.random.default_rng(0)
    before, after = generator.random(2000) < 0.9, generator.random(2000) < 0.8
    change = gates.change(after, before)
    differences = 100.0 * after - 100.0 * before
    half = 1.96 * np.std(differences, ddof=1) / np.sqrt(2000)
    assert change["top1"] == pytest.approx(100 * after.mean(), abs=1e-3)
    assert change["mean"] == pytest.approx(differences.mean(), abs=1e-3)
    assert change["high"] - change["low"] == pytest.approx(2 * half, abs=2e-3)


def made_up_gates(between=(0.0, 0.05, 0.02)):
    """Returns results of a network with one block in each of three stages."""
    blocks = [
        {"block": f"stage{i}_unit1/se", "stage": f"stage {i}", "mean": 0.5}
        | {"between_channels": 0.1, "between_images": value, "between_classes": value / 2}
        for i, value in enumerate(between, start=1)
    ]
    replaced = {
        "stage 1": {"top1": 80, "mean": -0.1, "low": -0.3, "high": 0.1},
        "stage 2": {"top1": 80, "mean": -1.0, "low": -1.3, "high": -0.7},
        "all stages": {"top1": 80, "mean": -2.0, "low": -2.5, "high": -1.5},
    }
    study, cell = gates.FIGURE
    network = {"study": study, "cell": cell, "label": "SE-ResNet-20", "top1": 87.0, "images": 10000}
    mean = [[0.4, 0.6], [0.5, 0.5], [0.45, 0.55]]
    by_channel = {"classes": ["cat", "dog", "all"]}
    by_channel["blocks"] = {each["block"]: {"mean": mean, "std": [0.1, 0.1]} for each in blocks}
    networks = [network | {"blocks": blocks, "replaced": replaced}]
    return {"dataset": "cifar10 test", "networks": networks, "by_channel": by_channel}


def test_the_report_says_which_stages_need_gates_that_depend_on_the_image(tmp_path):
    assert report_gates.gates_section(tmp_path) == []
    (tmp_path / gates.FILE).write_text(json.dumps(made_up_gates()))
    page = "\n".join(report_gates.gates_section(tmp_path))
    assert "constant gates in stage 2 change its top-1; what they change in stage 1 is" in page
    assert "In all stages at once: -2.00 [-2.50, -1.50] points." in page
    assert "| backbones | SE-ResNet-20 | 1 of 3 | 87.00 |" in page
    assert "| -0.10 [-0.30, +0.10], within the noise | -1.00 [-1.30, -0.70] |" in page
    assert "differ most between images in `stage2_unit1/se` (standard deviation 0.050" in page
    assert "In `stage1_unit1/se` they are the same for all images" in page
    for name in ("gates_depth.png", "gates_classes.png"):
        assert f"figures/{name}" in page
        assert (tmp_path / "figures" / name).stat().st_size < 60_000


def test_a_folder_without_runs_is_refused(run_command, tmp_path):
    process = run_command("experiments.gates", f"--runs={tmp_path}", f"--out={tmp_path / 'out'}")
    assert process.returncode == 2
    assert "has no run of the scale budget with SE blocks" in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_block_outside_of_stages_is_refused():
    assert gates.stage_of("stage2_unit1/se") == "stage 2"
    with pytest.raises(UserError, match="mixed_5b/se does not say in which stage"):
        gates.stage_of("mixed_5b/se")
