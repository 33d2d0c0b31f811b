"""Runs on images of several classes each."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

import se_flax
from se_flax.data import Dataset, Split
from se_flax.data.dataset import known_labels
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.loaded import load_weights
from se_flax.predict import draw, predict
from se_flax.program import build_program, dataset_of_run, with_preparation
from se_flax.publish import write_repository
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import train
from tests import tiny_run

NAMES = ("blue", "across")
MODEL = "se_resnet20_cifar"


@pytest.fixture(scope="module")
def both(stripes):
    """The images of `stripes`, which are blue, or across, or both, or neither."""

    def split(images):
        labels = np.stack([images.labels // 2, images.labels % 2], axis=1)
        return Split(images.images, labels)

    return Dataset(
        "both", split(stripes.train), split(stripes.test), NAMES, stripes.mean, stripes.std, True
    )


@pytest.fixture
def config(tiny_config):
    tiny_config.loss = "bce"
    tiny_config.augment.mixup = 0.2
    tiny_config.label_smoothing = 0.1
    tiny_config.class_weights = "balanced"
    tiny_config.optimizer.learning_rate = 0.5
    return tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, both):
    config = tiny_run.get_config()
    config.batch_size, config.log_every_steps, config.loss = 16, 4, "bce"
    config.optimizer.learning_rate = 0.5
    workdir = tmp_path_factory.mktemp("several_classes") / "run"
    return workdir, train(config, workdir, both)


def rows_of(workdir):
    return [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_them_and_reports_map(finished, both):
    workdir, summary = finished
    assert summary["best"]["mAP"] > 90
    assert set(summary["final"]) == {"step", "loss", "mAP", "label_accuracy"}
    rows = rows_of(workdir)
    tested = [row for row in rows if "test/mAP" in row]
    assert len(tested) == 6
    assert all("test/top1" not in row for row in rows)
    trained = [row for row in rows if "train/label_accuracy" in row]
    assert trained[-1]["train/loss"] < trained[0]["train/loss"]
    # The best checkpoint is the one with the highest mAP, of equal ones the last.
    best = max(tested, key=lambda row: (row["test/mAP"], row["step"]))
    assert summary["best"]["step"] == best["step"]
    again = evaluate_workdir(workdir, dataset=both)
    assert again["mAP"] == summary["best"]["mAP"]
    assert (again["images"], again["num_classes"]) == (37, 2)
    assert "top1" not in again


def test_what_is_published_says_that_an_image_can_have_several_classes(finished, tmp_path):
    workdir, summary = finished
    write_repository(workdir, tmp_path, "user/both")
    run, loaded = se_flax.load_run(workdir), load_weights(MODEL, tmp_path / "model.safetensors")
    assert (loaded.loss, loaded.multi_label, loaded.classes) == ("bce", True, NAMES)
    logits = np.array([[0.0, 5.0]])
    np.testing.assert_array_equal(loaded.probabilities(logits), run.probabilities(logits))
    card = (tmp_path / "README.md").read_text()
    for words in (
        f"| mAP | {summary['best']['mAP']:.2f}% |",
        "2 classes, of which an image can have several",
        "if p > 0.5",
    ):
        assert words in card


@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_in_the_same_bits(config, both, tmp_path):
    config.num_epochs = 2
    train(config, tmp_path / "whole", both)

    class Stop(Exception):
        pass

    def stop(step, values):
        if step > 8:
            raise Stop

    config.checkpoint_every_minutes = 0.0
    with pytest.raises(Stop):
        train(config, tmp_path / "run", both, stop)
    train(config, tmp_path / "run", both)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    states = []
    config.dataset.multi_label = True
    for name in ("whole", "run"):
        with Checkpoints(tmp_path / name, ("mAP",), read_only=True) as saved:
            states.append(saved.restore(build_program(config, both).abstract(), saved.latest)[0])
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_an_opened_run_predicts_the_classes_above_a_half(finished, both, tmp_path, capsys):
    loaded = se_flax.load_run(finished[0])
    assert (loaded.loss, loaded.multi_label, loaded.classes) == ("bce", True, NAMES)
    for i, image in enumerate(both.test.images[:8]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    found = list(predict(loaded, tmp_path))
    images = loaded.prepare(list(both.test.images[:8]))
    logits = np.asarray(loaded.network.apply(loaded.variables, images, train=False))
    for each, row in zip(found, 1 / (1 + np.exp(-logits)), strict=True):
        expected = [k for k in np.argsort(-row) if row[k] > 0.5]
        assert each.indices == tuple(expected)
        np.testing.assert_allclose(each.probabilities, row[expected], rtol=1e-4)
    assert {len(each.classes) for each in found} == {0, 1, 2}
    figure = draw(loaded, found, heatmap=True)
    assert len(figure.axes) == 2 * 8 + sum(bool(each.classes) for each in found)


@pytest.mark.slow
def test_two_seeds_are_evaluated_one_by_one(config, both, tmp_path):
    config.num_epochs, config.num_seeds, config.seed_mode = 1, 2, "vmap"
    summary = train(config, tmp_path, both)
    each = [result["final"]["mAP"] for result in summary["per_seed"]]
    assert each[0] != each[1]
    assert summary["final"]["mAP"] == pytest.approx(np.mean(each))
    assert "test/seed1/mAP" in rows_of(tmp_path)[-1]


def test_several_classes_need_a_loss_that_knows_them(tiny_config, both, stripes, tmp_path):
    with pytest.raises(UserError, match=r'use config\.loss="bce"'):
        train(tiny_config, tmp_path / "run", both)
    assert not (tmp_path / "run").exists()


def test_labels_of_a_wrong_shape_are_refused(both):
    images = both.train.images
    with pytest.raises(UserError, match=r"0 and 1 with shape \[n, classes\]"):
        Split(images, np.full((100, 2), 2))
    for labels in (np.zeros((100, 3), int), np.zeros(100, int)):
        own = Split(images, labels)
        with pytest.raises(UserError, match="must have one column for each class"):
            Dataset("x", own, both.test, NAMES, (0.5,) * 3, (0.5,) * 3, True)


@pytest.mark.slow
def test_one_class_for_each_image_can_be_learnt_with_bce_too(tiny_config, stripes, tmp_path):
    tiny_config.loss = "bce"
    tiny_config.optimizer.learning_rate = 0.5
    summary = train(tiny_config, tmp_path, stripes)
    assert summary["final"]["top1"] > 60
    loaded = se_flax.load_run(tmp_path)
    assert (loaded.loss, loaded.multi_label) == ("bce", False)
    shares = loaded.probabilities(np.float32([[0, 1]]))
    np.testing.assert_allclose(shares, [[0.5, 1 / (1 + np.exp(-1))]], rtol=1e-6)


# A folder of images and a CSV file.


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, image_dir):
    """Images with a CSV file of their classes: red, or grey, or both, or none."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for split in ("train", "val"):
        (folder / split).mkdir()
        for path in sorted((image_dir / split).glob("*/*.jpg")):
            image = Image.open(path)
            own = ["red"] if path.parent.name == "red" else []
            if int(path.stem) % 2:
                image = image.convert("L")
                own.append("grey")
            name = f"{split}/{path.parent.name}_{path.stem}.{'tif' if own else 'png'}"
            image.save(folder / name)
            rows.append((name, ";".join(own)))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "classes"), *rows])
    return folder


@pytest.fixture
def streamed(labelled):
    config = tiny_run.get_config()
    tiny_run.stream(config, labelled)
    config.dataset.labels, config.dataset.multi_label, config.loss = "labels.csv", True, "bce"
    config.class_weights = "balanced"
    config.optimizer.learning_rate = 0.5
    config.num_epochs = 2
    return config


@pytest.mark.slow
def test_a_run_on_a_csv_file_trains_and_is_evaluated_elsewhere(streamed, labelled, tmp_path):
    summary = train(streamed, tmp_path / "run")
    assert np.isfinite(summary["final"]["mAP"])
    (tmp_path / "other.csv").write_text("file,red,grey\ntrain/red_02.tif,1,0\n")
    options = {"image_dir": labelled, "labels": tmp_path / "other.csv"}
    other = evaluate_workdir(tmp_path / "run", "latest", **options)
    assert (other["images"], other["mAP"]) == (1, 100.0)
    red = [path.name for path in sorted((labelled / "train").glob("red_*"))[:3]]
    rows = [
        f"train/{name},{split},1,0"
        for name, split in zip(red, ("val", "train", "val"), strict=True)
    ]
    (tmp_path / "other.csv").write_text("\n".join(["file,split,red,grey", *rows]))
    assert evaluate_workdir(tmp_path / "run", "latest", **options)["images"] == 2
    with pytest.raises(UserError, match="give a CSV file with --labels=FILE"):
        evaluate_workdir(tmp_path / "run", "latest", image_dir=labelled)
    from se_flax.analysis.subject import subject_of_run

    with pytest.raises(UserError, match="needs one class for each image"):
        subject_of_run(tmp_path / "run", "latest")
    assert se_flax.load_run(tmp_path / "run", "latest").classes == ("grey", "red")


def test_a_csv_file_gives_the_labels_of_a_run(streamed):
    dataset = dataset_of_run(with_preparation(streamed))
    assert (dataset.class_names, dataset.multi_label) == (("grey", "red"), True)
    ((_, labels),) = dataset.host_images("test", 100)
    files = [path.name for path in dataset.test.paths]
    expected = [[int(file[-6:-4]) % 2, int(file.startswith("red"))] for file in files]
    np.testing.assert_array_equal(labels, expected)
    streamed.validation_fraction = 0.2
    held_out = dataset_of_run(with_preparation(streamed))
    assert held_out.validation.multi_label
    counts = known_labels(held_out.train).sum(0) + known_labels(held_out.validation).sum(0)
    np.testing.assert_array_equal(counts, known_labels(dataset.train).sum(0))


def test_a_csv_file_that_does_not_fit_the_config_stops_a_run(streamed, tmp_path):
    streamed.dataset.multi_label, streamed.loss = False, "softmax"
    with pytest.raises(UserError, match=r"labels.csv can give an image several classes; set"):
        train(streamed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_class_for_each_image_can_be_in_a_csv_file(streamed, labelled, tmp_path):
    rows = (labelled / "labels.csv").read_text().splitlines()[1:]
    named = [row.partition(";")[0] + ("grey" if row.endswith(",") else "") for row in rows]
    (tmp_path / "one.csv").write_text("\n".join(["file,class", *named]))
    streamed.dataset.labels = str(tmp_path / "one.csv")
    streamed.dataset.multi_label, streamed.loss = False, "softmax"
    streamed.num_epochs = 1
    assert "top1" in train(streamed, tmp_path / "run")["final"]
    streamed.dataset.multi_label, streamed.loss = True, "bce"
    with pytest.raises(UserError, match='has a column "class", one for each image'):
        train(streamed, tmp_path / "second")
