import json
import shutil

import numpy as np
import pytest

from se_flax.config import default_config
from se_flax.data import Dataset
from se_flax.data.from_config import dataset_of, preparation_of
from se_flax.data.images import CenterCrop, RandomResizedCrop
from se_flax.data.sources import statistics_of
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.models import model_info
from se_flax.train import train
from tests import tiny_run
from tests.data.test_folders import SOUND_BUT_DAMAGED


@pytest.fixture
def config(image_dir):
    config = tiny_run.get_config()
    tiny_run.stream(config, image_dir)
    config.num_epochs = 4
    return config


def test_known_small_data_sets_are_held_in_memory():
    config = default_config()
    config.dataset.name = "digits"
    assert isinstance(dataset_of(config), Dataset)


def test_images_are_prepared_as_published_for_the_network(image_dir):
    config = default_config()
    config.model.name = "se_efficientnet_b1"
    config.dataset.image_dir = str(image_dir)
    config.augment.random_resized_crop = True
    dataset = dataset_of(config)
    assert dataset.eval_crop == CenterCrop(240, 0.882, "bicubic")
    assert dataset.train_crop == RandomResizedCrop(240, (0.08, 1.0))
    assert dataset.mean == (0.485, 0.456, 0.406)
    config.dataset.image_size = 64
    config.dataset.crop_pct = 1.0
    config.augment.random_resized_crop = False
    dataset = dataset_of(config)
    assert dataset.eval_crop == dataset.train_crop == CenterCrop(64, 1.0, "bicubic")


def test_training_and_evaluation_can_have_other_sizes(config, image_dir):
    config.dataset.image_size, config.dataset.train_size = 32, 16
    dataset = dataset_of(config)
    assert (dataset.train_crop.size, dataset.eval_crop.size) == (16, 32)
    assert dataset.image_shape == (32, 32, 3)
    config.augment.random_resized_crop = False
    assert dataset_of(config).train_crop == CenterCrop(16, 1.0, "bilinear")


def test_a_network_that_cannot_take_the_size_in_training_is_refused(image_dir, tmp_path):
    config = default_config()
    tiny_run.stream(config, image_dir)
    config.model.name, config.model.overrides.auxiliary = "inception_v3", False
    config.dataset.image_size, config.dataset.train_size = 96, 32
    with pytest.raises(UserError, match="images of 32 x 32 are too small for this network"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_trains_and_evaluates_on_a_folder_and_stores_its_classes(config, image_dir, tmp_path):
    summary = train(config, tmp_path / "run")
    assert summary["dataset"] == image_dir.name
    assert summary["final"]["top1"] > 90
    again = evaluate_workdir(tmp_path / "run", "latest")
    assert again["top1"] == summary["final"]["top1"]
    assert again["images"] == 13

    # Some of the classes, in another folder, keep their numbers from training.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "red").symlink_to(image_dir / "train" / "red")
    red = evaluate_workdir(tmp_path / "run", "latest", image_dir=tmp_path / "other")
    assert (red["images"], red["top1"] > 90) == (15, True)
    (tmp_path / "other" / "red").rename(tmp_path / "other" / "purple")
    with pytest.raises(
        UserError, match=r"unknown classes: purple; .*known classes are blue, green, red"
    ):
        evaluate_workdir(tmp_path / "run", "latest", image_dir=tmp_path / "other")


def test_a_run_does_not_continue_on_other_classes(config, image_dir, tmp_path):
    train(config, tmp_path / "run")
    for split in ("train", "val"):
        for old, new in (("blue", "cyan"), ("green", "green"), ("red", "red")):
            (tmp_path / "renamed" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "renamed" / split / new).symlink_to(image_dir / split / old)
    images = tmp_path / "images"
    images.symlink_to(image_dir)
    config.dataset.image_dir = str(images)
    config.num_epochs = 5
    with pytest.raises(UserError, match=r"config.dataset.image_dir="):
        train(config, tmp_path / "run")
    train(config, tmp_path / "second")
    images.unlink()
    images.symlink_to(tmp_path / "renamed")
    config.num_epochs = 6
    with pytest.raises(UserError, match="a run on other classes"):
        train(config, tmp_path / "second")


def test_a_validation_split_can_be_held_out(config, tmp_path):
    config.validation_fraction = 0.2
    summary = train(config, tmp_path)
    assert summary["best_chosen_on"] == "validation"
    assert evaluate_workdir(tmp_path, split="validation")["images"] == 9
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["validation/loss"] for row in rows if "validation/loss" in row]).all()


def test_bad_images_stop_a_run_before_it_begins(config, image_dir, tmp_path):
    folder = tmp_path / "images"
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for name in ("blue", "red"):
            (folder / split / name).symlink_to(image_dir / split / name)
    (folder / "train" / "zebra").mkdir()
    (folder / "train" / "zebra" / "bad.jpg").write_bytes(b"no")
    config.dataset.image_dir = str(folder)
    with pytest.raises(UserError, match=r"zebra/bad.jpg \(not an image\)"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.dataset.skip_bad = True
    config.num_epochs = 1
    assert train(config, tmp_path / "run")["steps"] == 4


@pytest.mark.slow
def test_images_that_turn_out_damaged_end_neither_a_run_nor_its_exactness(
    config, image_dir, tmp_path, capfd
):
    folder = tmp_path / "images"
    shutil.copytree(image_dir, folder)
    for name in ("train/red/02", "train/blue/12", "val/green/04"):
        (folder / f"{name}.jpg").unlink()
        (folder / f"{name}.png").write_bytes(SOUND_BUT_DAMAGED)
    config.dataset.image_dir = str(folder)
    config.num_epochs = 2
    summary = train(config, tmp_path / "whole")
    shown = capfd.readouterr()
    assert "3 images could not be decoded" in shown.out
    assert "1 of 13 images are damaged and were not evaluated" in shown.err
    assert shown.err.count("red/02.png") == 1
    assert evaluate_workdir(tmp_path / "whole", "latest")["images"] == 12

    def stop(step, values):
        if step >= 6:
            raise InterruptedError

    config.log_every_steps, config.checkpoint_every_minutes = 1, 0.0
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "run", callback=stop)
    again = train(config, tmp_path / "run")
    assert again["final"] == summary["final"]


def test_streamed_images_are_normalised_by_their_own_statistics_where_they_are_known(image_dir):
    config = default_config()
    config.model.name = "resnet20_cifar"
    config.dataset.name = "cifar100_n"
    prepared = preparation_of(config, model_info("resnet20_cifar").preparation)
    assert prepared.mean == (0.5071, 0.4865, 0.4409)
    assert statistics_of("cifar10_corrupted/brightness_1")[0] == (0.4914, 0.4822, 0.4465)
    assert statistics_of("imagenette") is statistics_of("cifar1000") is None
    config.dataset.image_dir = str(image_dir)
    assert dataset_of(config).mean == (0.4914, 0.4822, 0.4465)
    config.dataset.mean, config.dataset.std = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)
    assert dataset_of(config).mean == (0.1, 0.2, 0.3)
