"""Runs that start from published weights, here from a stand-in for a published file."""

import json

import numpy as np
import pytest

from se_flax import init_from
from se_flax.config import build_model, default_config
from se_flax.data import load_dataset
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.pretrained import load
from se_flax.program import build_program, dataset_of_run, with_preparation
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import train
from se_flax.workdir import read_config
from tests.stand_ins import STATED, publish, tensors_of
from tests.tiny_run import stream

NAME = "se_resnet18"
SMALL = {"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2, "stem": "cifar"}


@pytest.fixture
def config(tiny_config, monkeypatch):
    """A config that starts from weights for 4 classes, as many as `stripes` has."""
    tiny_config.model.name = NAME
    tiny_config.model.overrides.update(SMALL)
    tiny_config.num_epochs = 1
    tiny_config.init_from = "weights.pth"
    monkeypatch.setattr(load, "read_tensors", lambda source: weights(tiny_config, 4))
    return tiny_config


def weights(config, num_classes):
    """Random tensors, named as the file names them."""
    return tensors_of(NAME, build_model(config, num_classes))


def final_state(config, stripes, workdir):
    """The state that a run ends in."""
    abstract = build_program(config, stripes).abstract()
    train(config, workdir, stripes)
    saved = Checkpoints(workdir, read_only=True)
    state, _ = saved.restore(abstract, saved.latest)
    saved.close()
    return state


def kernel(tensors, name):
    tensor = np.float32(tensors[name])
    return tensor.transpose(*range(2, tensor.ndim), 1, 0)


def test_a_run_starts_from_the_weights(config, stripes, tmp_path):
    config.optimizer.learning_rate = 0.0
    state = final_state(config, stripes, tmp_path)
    tensors = weights(config, 4)
    params = state.params
    np.testing.assert_array_equal(params["classifier"]["kernel"], kernel(tensors, "fc.weight"))
    np.testing.assert_array_equal(
        params["stage2_unit1"]["conv1"]["kernel"], kernel(tensors, "layer2.0.conv1.weight")
    )


def test_a_new_classifier_is_initialised_by_the_seed(
    config, stripes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(load, "read_tensors", lambda source: weights(config, 1000))
    config.optimizer.learning_rate = 0.0
    heads = []
    for seed in (0, 1):
        config.seed = seed
        state = final_state(config, stripes, tmp_path / str(seed))
        np.testing.assert_array_equal(
            state.params["stem_conv"]["kernel"], kernel(weights(config, 1000), "conv1.weight")
        )
        heads.append(np.asarray(state.params["classifier"]["kernel"]))
    assert heads[0].shape == (8, 4)
    assert not np.array_equal(*heads)
    assert "the classifier for 4 classes is newly" in capsys.readouterr().out


def test_a_frozen_backbone_does_not_change(config, stripes, tmp_path):
    config.freeze_backbone = True
    config.ema_decay = 0.5
    state = final_state(config, stripes, tmp_path)
    tensors = weights(config, 4)
    np.testing.assert_array_equal(
        state.params["stage1_unit1"]["conv2"]["kernel"], kernel(tensors, "layer1.0.conv2.weight")
    )
    np.testing.assert_array_equal(
        state.batch_stats["stem_bn"]["mean"], np.float32(tensors["bn1.running_mean"])
    )
    head = state.params["classifier"]["kernel"]
    assert not np.array_equal(head, kernel(tensors, "fc.weight"))
    assert not np.array_equal(state.ema["params"]["classifier"]["kernel"], head)


def test_lr_multipliers_scale_the_updates_of_the_layers_they_match(config, stripes, tmp_path):
    config.optimizer.learning_rate = 0.01
    config.optimizer.lr_multipliers = (("classifier/*", 1.0), ("stage2*/conv1/*", 0.5), ("*", 0.0))
    state = final_state(config, stripes, tmp_path)
    tensors = weights(config, 4)

    def moved(path, name):
        value = state.params
        for key in path.split("/"):
            value = value[key]
        return not np.array_equal(value, kernel(tensors, name))

    assert moved("classifier/kernel", "fc.weight")
    assert moved("stage2_unit1/conv1/kernel", "layer2.0.conv1.weight")
    assert not moved("stage2_unit1/conv2/kernel", "layer2.0.conv2.weight")
    assert not moved("stem_conv/kernel", "conv1.weight")


def test_weights_of_another_network_are_refused_before_anything_is_written(
    config, stripes, tmp_path
):
    config.init_from = "timm/legacy_seresnet50.in1k"
    with pytest.raises(UserError, match='has weights for "se_resnet50_caffe"'):
        train(config, tmp_path / "run", stripes)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def stated(config, image_dir, tmp_path):
    """A config that starts from weights which state how images are prepared."""
    stream(config, image_dir)
    config.dataset.image_size = 0
    wants = {"pretrained_cfg": {**STATED, "input_size": [3, 12, 12]}}
    config.init_from = str(publish(tmp_path / "published" / "weights.pth", wants))
    return config


def test_a_run_prepares_images_as_its_weights_state_and_stores_it(stated, tmp_path, monkeypatch):
    summary = train(stated, tmp_path / "run")
    dataset = json.loads((tmp_path / "run" / "config.json").read_text())["dataset"]
    assert (dataset["image_size"], dataset["crop_pct"]) == (12, 0.9)
    assert dataset["interpolation"] == "bicubic"
    assert (dataset["mean"], dataset["std"]) == (STATED["mean"], STATED["std"])

    # Later on, nothing is read again.
    monkeypatch.setattr(init_from, "preparation_for", None)
    again = evaluate_workdir(tmp_path / "run", "latest")
    assert again["loss"] == summary["final"]["loss"]
    stated.num_epochs = 2
    train(stated, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == dataset


def test_a_run_prepares_images_as_its_config_says_before_its_weights(stated):
    stated.dataset.mean, stated.dataset.std = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)
    stated.dataset.image_size = 10
    dataset = dataset_of_run(with_preparation(stated))
    assert (dataset.mean, dataset.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    assert dataset.image_shape == (10, 10, 3)
    assert dataset.eval_crop.interpolation == "bicubic"


def test_a_run_keeps_its_mean_and_std(stated, tmp_path):
    train(stated, tmp_path / "run")
    stated.dataset.mean, stated.dataset.std = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)
    stated.num_epochs = 2
    with pytest.raises(UserError, match=r"a run with config\.dataset\.mean=\[0\.5, 0\.4, 0\.3\]"):
        train(stated, tmp_path / "run")


def test_a_run_stores_the_mean_and_std_of_a_data_set_that_is_passed_to_it(
    config, stripes, tmp_path
):
    train(config, tmp_path, stripes)
    stored = read_config(tmp_path).dataset
    assert (tuple(stored.mean), tuple(stored.std)) == (stripes.mean, stripes.std)


def test_images_in_memory_are_normalised_as_the_weights_state_if_they_do(tmp_path):
    config = default_config()
    config.dataset.name = "cifar10"
    config.model.name = "resnet18"
    assert init_from.unset_preparation(config) == {}
    config.init_from = str(publish(tmp_path / "bare" / "weights.pth"))
    assert init_from.unset_preparation(config) == {}
    config.init_from = str(publish(tmp_path / "weights.pth", {"pretrained_cfg": STATED}))
    assert init_from.unset_preparation(config) == {"mean": STATED["mean"], "std": STATED["std"]}


def test_a_config_normalises_images_in_memory(config):
    config.dataset.name = "digits"
    config.dataset.mean, config.dataset.std = (0.25,), (0.5,)
    dataset = dataset_of_run(config)
    assert (dataset.mean, dataset.std) == ((0.25,), (0.5,))
    assert load_dataset("digits").mean != (0.25,)
    config.dataset.mean, config.dataset.std = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)
    with pytest.raises(UserError, match="a value for each channel of digits, which has 1"):
        dataset_of_run(config)


def test_a_run_of_a_version_that_stored_no_statistics_is_normalised_as_then(tmp_path, image_dir):
    def read(model, **dataset):
        values = json.loads(default_config().to_json_best_effort())
        values["model"]["name"] = model
        del values["dataset"]["mean"], values["dataset"]["std"]
        values["dataset"].update(dataset)
        (tmp_path / "config.json").write_text(json.dumps(values))
        return tuple(read_config(tmp_path).dataset.mean)

    imagenet = (0.485, 0.456, 0.406)
    assert read("resnet20_cifar", image_dir=str(image_dir)) == imagenet
    assert read("resnet20_cifar", name="oxford_flowers102") == imagenet
    assert read("inception_v3", image_dir=str(image_dir)) == (0.5, 0.5, 0.5)
    assert read("resnet20_cifar", name="cifar10") == ()
    assert read("resnet20_cifar", name="passed to train") == ()
