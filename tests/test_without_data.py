"""Runs that are evaluated, analysed and opened after the data they were trained on is gone."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import se_flax
from se_flax.analysis.confusion import confusion_matrix
from se_flax.analysis.subject import normalized, subject_of_run
from se_flax.data import Dataset, Split, from_config, load_dataset
from se_flax.data.images import CenterCrop
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.models import Preparation
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import train
from tests import tiny_run

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10 += ("dog", "frog", "horse", "ship", "truck")


def write_folder(folder: pathlib.Path, split: Split, class_names: tuple[str, ...]) -> pathlib.Path:
    """Writes a split as PNG files into a folder per class; returns the folder."""
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        path = folder / class_names[label] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
    return folder


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    """The digits' test images, as files."""
    digits = load_dataset("digits")
    return write_folder(tmp_path_factory.mktemp("digits"), digits.test, digits.class_names)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The workdir of a run of two seeds on the digits."""
    config = tiny_run.get_config()
    config.num_epochs, config.num_seeds, config.seed_mode = 2, 2, "vmap"
    config.ema_decay = 0.5
    workdir = tmp_path_factory.mktemp("digits_run")
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def streamed_run(tmp_path_factory, image_dir):
    """The workdir of a run on a folder that is gone, and its summary."""
    folder = tmp_path_factory.mktemp("streamed_run")
    shutil.copytree(image_dir, folder / "images")
    config = tiny_run.get_config()
    tiny_run.stream(config, folder / "images")
    config.num_epochs = 4
    config.dataset.crop_pct, config.dataset.interpolation = 0.8, "bicubic"
    config.dataset.mean, config.dataset.std = (0.2, 0.3, 0.4), (0.3, 0.2, 0.1)
    summary = train(config, folder / "run")
    shutil.rmtree(folder / "images")
    return folder / "run", summary


@pytest.fixture
def no_data(monkeypatch):
    """Makes data sets by name unavailable."""

    def load_dataset(name, data_dir):
        raise UserError(f'the data set "{name}" is not prepared; do that first')

    monkeypatch.setattr(from_config, "load_dataset", load_dataset)


def assert_same_results(results, expected):
    assert results["images"] == expected["images"]
    for ours, theirs in zip(results["per_seed"], expected["per_seed"], strict=True):
        assert ours["top1"] == theirs["top1"]
        assert ours["top3"] == theirs["top3"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_images_in_memory_and_the_same_images_in_a_folder_give_the_same_results(
    digits_run, digits_folder, request
):
    expected = evaluate_workdir(digits_run)
    request.getfixturevalue("no_data")
    results = evaluate_workdir(digits_run, image_dir=digits_folder)
    assert_same_results(results, expected)
    assert results["dataset"] == str(digits_folder)


def test_a_run_on_tfds_images_in_memory_is_evaluated_once_they_are_gone(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir, tmp_path / "tfds")
    (version,) = (tmp_path / "tfds" / "cifar10").iterdir()
    (version / "label.labels.txt").write_text("\n".join(CIFAR10))  # as TFDS stores the names
    config = tiny_run.get_config()
    config.num_epochs, config.num_seeds = 1, 2
    config.dataset.name, config.dataset.data_dir = "cifar10", str(tmp_path / "tfds")
    train(config, tmp_path / "run")
    expected = evaluate_workdir(tmp_path / "run")
    cifar = load_dataset("cifar10", str(tmp_path / "tfds"))
    folder = write_folder(tmp_path / "images", cifar.test, CIFAR10)
    shutil.rmtree(tmp_path / "tfds")
    assert_same_results(evaluate_workdir(tmp_path / "run", image_dir=folder), expected)
    (folder / "cat").rename(folder / "tiger")
    with pytest.raises(
        UserError, match=r"tiger; .* known classes are airplane, automobile, bird, ca"
    ):
        evaluate_workdir(tmp_path / "run", image_dir=folder)


def test_a_streamed_run_is_evaluated_once_its_folder_is_gone(streamed_run, image_dir):
    workdir, summary = streamed_run
    results = evaluate_workdir(workdir, "latest", image_dir=image_dir / "val")
    assert results["loss"] == pytest.approx(summary["final"]["loss"], rel=1e-5)
    assert results["images"] == 13


def test_larger_and_coloured_images_are_resized_for_a_run_on_small_grey_ones(
    digits_run, tmp_path, no_data
):
    (tmp_path / "3").mkdir()
    image = np.zeros((32, 16, 3), np.uint8)
    image[4:28, :, 1] = 200  # green, in the central square and a little around it
    Image.fromarray(image).save(tmp_path / "3" / "image.png")
    run = se_flax.load_run(digits_run)
    # 0.587 is the weight of green in the luma of ITU-R BT.601.
    expected = np.full((1, 8, 8, 1), (round(0.587 * 200) / 255 - 0.3054) / 0.3760)
    np.testing.assert_allclose(run.prepare(tmp_path / "3" / "image.png"), expected, rtol=1e-5)
    subject = subject_of_run(digits_run, image_dir=tmp_path)
    ((images, labels),) = normalized(subject, 10)
    np.testing.assert_allclose(images, expected, rtol=1e-5)
    assert (labels.tolist(), subject.images) == ([3], str(tmp_path))


def test_grey_levels_of_grey_images_are_kept():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    cropped = CenterCrop(16, 1.0, channels=1)(np.repeat(grey, 3, -1))
    np.testing.assert_array_equal(cropped, grey)


def test_an_opened_run_gives_the_logits_of_its_evaluation(digits_run, digits_folder, no_data):
    expected = evaluate_workdir(digits_run, image_dir=digits_folder)["per_seed"][1]
    run = se_flax.load_run(digits_run, seed=1)
    paths = sorted(digits_folder.glob("*/*.png"))
    logits = run.network.apply(run.variables, run.prepare(paths), train=False)
    assert run.classes == tuple("0123456789")
    assert run.preparation == Preparation(8, 1.0, "bilinear", (0.3054,), (0.3760,))
    assert run.step == expected["step"]
    labels = np.array([int(path.parent.name) for path in paths])
    losses = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
    assert np.mean(losses) == pytest.approx(expected["loss"], rel=1e-4)
    assert 100 * np.mean(logits.argmax(-1) == labels) == pytest.approx(expected["top1"])


def test_an_opened_run_prepares_images_as_its_evaluation_did(streamed_run, image_dir):
    run = se_flax.load_run(streamed_run[0], "latest")
    assert run.classes == ("blue", "green", "red")
    means = (0.2, 0.3, 0.4), (0.3, 0.2, 0.1)
    assert run.preparation == Preparation(16, 0.8, "bicubic", *means)
    subject = subject_of_run(streamed_run[0], "latest", image_dir=image_dir / "val")
    ((expected, _),) = normalized(subject, 20)
    paths = sorted((image_dir / "val").glob("*/*"))
    np.testing.assert_allclose(run.prepare(paths), expected, rtol=1e-6)
    one = run.prepare(str(paths[0]))
    np.testing.assert_allclose(one, expected[:1], rtol=1e-6)
    array = np.asarray(Image.open(paths[0]))
    np.testing.assert_array_equal(run.prepare(array), one)
    np.testing.assert_array_equal(run.prepare(array[None]), one)
    np.testing.assert_array_equal(run.prepare([paths[0].read_bytes()]), one)
    assert run.prepare(array[..., 0]).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there are no images"),
        ("/nowhere.png", "cannot read /nowhere.png: No such file"),
        (b"text", "not an image"),
        (np.zeros((8, 8, 3)), r"not float64 \[8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"not uint8 \[8, 8, 4\]"),
    ],
)
def test_an_image_that_cannot_be_prepared_is_reported(streamed_run, images, message):
    with pytest.raises(UserError, match=message):
        se_flax.load_run(streamed_run[0]).prepare(images)


def test_opening_a_run_without_the_packages_of_training_says_what_to_install(run_python):
    program = """
import sys
sys.modules["ml_collections"] = None  # makes every import of it fail
import se_flax
try:
    se_flax.load_run("runs/quickstart")
except ValueError as error:
    print(error)
"""
    process = run_python("-c", program)
    assert 'install them with pip install "se_flax[train]"' in process.stdout, process.stderr


def test_a_run_is_opened_at_a_step_and_a_seed(digits_run):
    run = se_flax.load_run(digits_run, 11)
    assert run.step == 11
    latest = se_flax.load_run(digits_run, "latest", seed=0)
    kernels = [each.variables["params"]["classifier"]["kernel"] for each in (run, latest)]
    assert not np.array_equal(*kernels)
    with pytest.raises(UserError, match="has no seed 2; it has 0, 1"):
        se_flax.load_run(digits_run, seed=2)
    with pytest.raises(UserError, match='has no checkpoint "7"'):
        se_flax.load_run(digits_run, 7)


def test_a_folder_is_analysed_like_the_images_of_the_data_set(digits_run, digits_folder, no_data):
    subject = subject_of_run(digits_run, seed=1, image_dir=digits_folder)
    batches = normalized(subject, 100)
    matrix = confusion_matrix(subject.model, subject.variables, batches, 10)
    expected = evaluate_workdir(digits_run, image_dir=digits_folder)["per_seed"][1]
    assert 100 * np.trace(matrix) / 360 == pytest.approx(expected["top1"])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("excitations", "stage1_unit1/se "),
        ("heatmaps", "of 5 correct"),
        ("confusion", "most confused:"),
    ],
)
def test_each_analysis_draws_images_of_ones_own(
    run_command, streamed_run, image_dir, command, says
):
    workdir = streamed_run[0]
    program = (f"se_flax.analysis.{command}", f"--workdir={workdir}")
    process = run_command(*program)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "give images of your own with --image_dir=DIR" in process.stderr
    folder = next((image_dir / "val").iterdir()) / ".."
    process = run_command(*program, f"--image_dir={folder}")
    assert process.returncode == 0, process.stderr
    assert says in process.stdout
    assert min(Image.open(workdir / "figures" / f"{command}_val.png").size) > 200


def test_the_evaluation_says_what_to_do_without_the_data(run_command, streamed_run, image_dir):
    program = ("se_flax.evaluate", f"--workdir={streamed_run[0]}", "--step=latest")
    process = run_command(*program)
    assert (process.returncode, len(process.stderr.splitlines())) == (2, 1)
    assert "give images of your own with --image_dir=DIR" in process.stderr
    process = run_command(*program, f"--image_dir={image_dir / 'val'}")
    assert process.returncode == 0, process.stderr
    text, results = process.stdout.splitlines()[-2:]
    results = json.loads(results)
    assert f" on {results['dataset']}, {results['images']} images: " in text
    assert results["loss"] == pytest.approx(streamed_run[1]["final"]["loss"], rel=1e-5)


@pytest.fixture
def earlier(monkeypatch):
    """Reads checkpoints as if an earlier version had written them, without the preparation."""
    progress = Checkpoints.progress

    def progress_of(self, step):
        return {k: v for k, v in progress(self, step).items() if k != "preparation"}

    monkeypatch.setattr(Checkpoints, "progress", progress_of)


def test_a_run_of_an_earlier_version_is_opened_with_its_data_set(
    digits_run, digits_folder, streamed_run, image_dir, earlier, request
):
    expected = evaluate_workdir(digits_run)
    assert_same_results(evaluate_workdir(digits_run, image_dir=digits_folder), expected)
    assert se_flax.load_run(digits_run).preparation.mean == (0.3054,)
    workdir, summary = streamed_run  # its config says it all
    results = evaluate_workdir(workdir, "latest", image_dir=image_dir / "val")
    assert results["loss"] == pytest.approx(summary["final"]["loss"], rel=1e-5)
    digits = load_dataset("digits")
    request.getfixturevalue("no_data")
    for open_run in (
        lambda: evaluate_workdir(digits_run, image_dir=digits_folder),
        lambda: se_flax.load_run(digits_run),
    ):
        with pytest.raises(UserError, match=r'of an earlier version, .* "digits" is not prepared'):
            open_run()
    assert se_flax.load_run(digits_run, dataset=digits).preparation.size == 8


def test_only_a_run_on_square_images_takes_others(tmp_path, stripes, tiny_config):
    wide = {
        name: Split(split.images[:, :6], split.labels) for name, split in stripes.splits.items()
    }
    dataset = Dataset(
        name="wide", class_names=stripes.class_names, mean=stripes.mean, std=stripes.std,
        horizontal_flip=True, **wide,
    )  # fmt: skip
    tiny_config.num_epochs = 1
    train(tiny_config, tmp_path, dataset)
    with pytest.raises(UserError, match="images of 6 x 8 pixels with 3 channels"):
        se_flax.load_run(tmp_path)
