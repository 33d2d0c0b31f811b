import json
import re
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from se_flax import create_model
from se_flax.analysis.confusion import (
    confusion_matrix,
    draw_confusion,
    most_confused,
    per_class_accuracy,
)
from se_flax.analysis.excitations import excitations_by_class
from se_flax.analysis.figures import pyplot
from se_flax.analysis.heatmaps import (
    check_maps,
    choose_images,
    class_activation_maps,
    draw_heatmaps,
)
from se_flax.analysis.subject import Subject, limited, subject_of_run
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.train import train
from tests import tiny_run


def network(name, size, **overrides):
    """A network whose weights, classifier and batch statistics are all random."""
    model = create_model(name, 5, **overrides)
    images = jax.random.normal(jax.random.key(1), (6, size, size, 3))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images[:1])
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [
        x + 0.1 * jnp.abs(jax.random.normal(key, x.shape))
        for key, x in zip(keys, leaves, strict=True)
    ]
    return model, jax.tree.unflatten(structure, leaves), images


@pytest.mark.parametrize("name", ["se_resnet20_cifar", "preact_resnet110_cifar"])
def test_the_mean_of_a_class_activation_map_is_the_logit(name):
    model, variables, images = network(name, 16, stage_sizes=(1, 1), widths=(4, 8))
    maps, logits = class_activation_maps(model, variables, images, np.arange(6) % 5)
    np.testing.assert_allclose(
        maps.mean((1, 2)), logits[np.arange(6), np.arange(6) % 5], rtol=1e-3, atol=1e-3
    )
    predicted, _ = class_activation_maps(model, variables, images)
    np.testing.assert_allclose(predicted.mean((1, 2)), logits.max(-1), rtol=1e-3, atol=1e-3)


def test_networks_that_do_not_pool_at_the_end_have_no_class_activation_maps():
    model, variables, images = network("cnn3", 32)
    with pytest.raises(UserError, match="classifies the mean of its last feature map"):
        class_activation_maps(model, variables, images)
    with pytest.raises(UserError, match="has 64 channels and its classifier takes 1024 inputs"):
        check_maps(model, variables, jax.ShapeDtypeStruct(images.shape, images.dtype))


@pytest.mark.parametrize("squeeze", ["avg", "none"])
def test_excitations_are_the_moments_of_each_gate_over_each_class(squeeze):
    model, variables, images = network(
        "se_resnet20_cifar", 8, stage_sizes=(1, 1), widths=(4, 8), reduction=2, squeeze=squeeze
    )
    labels = np.array([0, 1, 0, 4, 1, 0])
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    result = excitations_by_class(model, variables, batches, (1, 0))
    assert list(result) == ["stage1_unit1/se", "stage2_unit1/se"]
    _, sown = model.apply(variables, images, train=False, mutable=["intermediates"])
    for name, block in result.items():
        unit = name.partition("/")[0]
        (gate,) = sown["intermediates"][unit]["se"]["excitation"]
        gate = np.asarray(gate).reshape(6, -1, gate.shape[-1]).mean(1)
        for row, chosen in enumerate((labels == 1, labels == 0, labels >= 0)):
            np.testing.assert_allclose(block.mean[row], gate[chosen].mean(0), rtol=1e-4)
            np.testing.assert_allclose(block.std[row], gate[chosen].std(0), rtol=1e-2, atol=1e-5)
    with pytest.raises(UserError, match="no images of class 3"):
        excitations_by_class(model, variables, batches, (3,))


def test_a_network_without_se_blocks_has_no_excitations():
    model, variables, images = network("resnet20_cifar", 8, stage_sizes=(1,), widths=(4,))
    with pytest.raises(UserError, match="no SE blocks"):
        excitations_by_class(model, variables, [(images, np.zeros(6, int))], (0,))


def test_a_confusion_matrix_equals_scikit_learns():
    model, variables, images = network("resnet20_cifar", 8, stage_sizes=(1,), widths=(4,))
    labels = np.array([0, 1, 0, 3, 1, 0])
    matrix = confusion_matrix(
        model, variables, [(images[:4], labels[:4]), (images[4:], labels[4:])], 5
    )
    says = np.asarray(model.apply(variables, images)).argmax(-1)
    expected = sklearn.metrics.confusion_matrix(labels, says, labels=range(5))
    np.testing.assert_array_equal(matrix, expected)


def test_accuracy_by_class_and_the_pairs_most_confused():
    matrix = np.array([[8, 2, 0], [0, 0, 0], [5, 0, 5]])
    np.testing.assert_array_equal(per_class_accuracy(matrix), [80, np.nan, 50])
    assert most_confused(matrix, 5) == [(2, 0, 5), (0, 1, 2)]


@pytest.fixture(scope="module")
def run_of_two_seeds(tmp_path_factory):
    config = tiny_run.get_config()
    config.num_epochs, config.num_seeds = 2, 2
    workdir = tmp_path_factory.mktemp("analysed") / "run"
    train(config, workdir)
    return workdir


def test_the_subject_of_a_run_has_the_accuracy_of_its_evaluation(run_of_two_seeds):
    expected = evaluate_workdir(run_of_two_seeds, "latest")["per_seed"]
    for seed in (0, 1):
        subject = subject_of_run(run_of_two_seeds, "latest", seed=seed)
        batches = ((subject.normalize(x), y) for x, y in subject.batches(100))
        matrix = confusion_matrix(subject.model, subject.variables, batches, 10)
        assert matrix.sum() == 360
        assert 100 * np.trace(matrix) / 360 == pytest.approx(expected[seed]["top1"])
    assert sum(len(y) for _, y in limited(subject.batches(100), 130)) == 130
    with pytest.raises(UserError, match="has no seed 2; it has 0, 1"):
        subject_of_run(run_of_two_seeds, seed=2)


def test_images_are_chosen_evenly_from_the_requested_classes(run_of_two_seeds):
    subject = subject_of_run(run_of_two_seeds)
    images, labels = choose_images(subject, [3, 7], 6, 50)
    assert sorted(labels) == [3, 3, 3, 7, 7, 7]
    assert len(images) == 6


def test_images_sorted_by_class_are_also_chosen_evenly():
    labels = np.repeat([0, 3, 7], (9, 1, 9))
    images = np.zeros((19, 4, 4, 3), np.uint8)
    subject = Subject(
        *("sorted", None, {}, tuple("0123456789")),
        *(lambda n: ((images[i : i + n], labels[i : i + n]) for i in range(0, 19, n)), None),
    )
    assert sorted(choose_images(subject, [0, 7], 6, 4)[1]) == [0, 0, 0, 7, 7, 7]
    # There is only one image of class 3, so others fill in.
    assert sorted(choose_images(subject, [3, 7], 6, 4)[1]) == [3, 7, 7, 7, 7, 7]
    assert len(choose_images(subject, range(10), 30, 4)[1]) == 19


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("excitations", ("--classes=0,8", "--bands"), "\nstage1_unit1/se   0."),
        ("heatmaps", ("--count=3",), "of 3 correct"),
        ("confusion", (), "most confused:"),
    ],
)
def test_each_analysis_is_a_command_that_draws(
    run_python, tmp_path, run_of_two_seeds, command, options, says
):
    output = tmp_path / "figure.png"
    process = run_python(
        *("-m", f"se_flax.analysis.{command}", f"--workdir={run_of_two_seeds}", *options),
        f"--output={output}",
    )
    assert process.returncode == 0, process.stderr
    assert says in process.stdout
    assert min(Image.open(output).size) > 200
    if command == "excitations":
        numbers = json.loads(output.with_suffix(".json").read_text())
        assert numbers["classes"] == ["0", "8", "all"]


@pytest.mark.parametrize("shell", [None, object()])
def test_only_in_ipython_does_a_figure_keep_the_backend_that_shows_it(shell, monkeypatch):
    pyplot()
    chosen = []
    monkeypatch.setattr(matplotlib, "use", chosen.append)
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    pyplot()
    assert chosen == ([] if shell else ["Agg"])


def test_figures_go_to_the_run_and_its_tensorboard(run_python, tmp_path, run_of_two_seeds):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workdir = tmp_path / "run"
    shutil.copytree(run_of_two_seeds, workdir)
    process = run_python("-m", "se_flax.analysis.confusion", f"--workdir={workdir}")
    assert process.returncode == 0, process.stderr
    figure = workdir / "figures" / "confusion.png"
    assert f"figure: {figure}" in process.stdout
    width, height = Image.open(figure).size
    events = EventAccumulator(str(workdir))
    events.Reload()
    (image,) = events.Images("figures/confusion")
    assert (image.width, image.height) == (width, height)
    title = process.stdout.splitlines()[0]
    assert re.fullmatch(r"se_resnet20_cifar, seed 0 on digits test: top-1 .*% of 360 images", title)


def test_a_confusion_matrix_names_its_images_and_accuracy():
    title = "a network on digits test: top-1 50.00% of 8 images"
    figure = draw_confusion(np.array([[3, 1], [3, 1]]), ("cat", "dog"), title)
    assert figure.axes[0].get_title() == title


def test_heat_maps_have_a_colour_scale_and_mark_right_and_wrong():
    image, activation = np.zeros((8, 8, 3), np.uint8), np.eye(2)
    column = (
        "a network",
        [image, image],
        [activation] * 2,
        ["cat, 90%", "dog, 60%"],
        [True, False],
    )
    figure = draw_heatmaps([image, image], ["cat", "cat"], [column])
    *axes, scale = figure.axes
    right, wrong = axes[1].title, axes[3].title
    assert (right.get_text(), wrong.get_text()) == ("a network\n\u2713 cat, 90%", "\u2717 dog, 60%")
    assert right.get_color() != wrong.get_color()
    assert [label.get_text() for label in scale.get_xticklabels()] == ["least", "most"]


def test_a_bad_command_line_is_reported_in_one_sentence(run_command, tmp_path, run_of_two_seeds):
    for options, expected in (
        ((), "give either --workdir"),
        ((f"--workdir={run_of_two_seeds}", "--image_dir=x"), "there is no folder x"),
        ((f"--workdir={run_of_two_seeds}", "--skip_bad"), "--skip_bad is for the images of"),
        (("--model=se_resnet50", "--seed=1"), "--seed cannot be combined with --model"),
        ((f"--workdir={run_of_two_seeds}", "--image_dir=x", "--split=test"), "--split cannot be"),
        (("--model=se_resnet50", "--step=latest"), "--step cannot be combined with --model"),
        ((f"--workdir={run_of_two_seeds}", "--classes=cat"), 'there is no class "cat"'),
        ((f"--workdir={run_of_two_seeds}", "--output=x.pdf"), "must end in .png"),
    ):
        process = run_command("se_flax.analysis.excitations", *options)
        assert process.returncode == 2
        assert expected in process.stderr
        assert len(process.stderr.splitlines()) == 1
