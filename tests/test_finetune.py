"""Runs that start from published weights, here from a stand-in for a published file."""

import jax
import numpy as np
import pytest

from se_flax.config import build_model
from se_flax.errors import UserError
from se_flax.pretrained import load
from se_flax.pretrained.layouts import layouts_of
from se_flax.program import build_program
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import train

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
    model = build_model(config, num_classes)
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 8, 8, 3))))
    generator = np.random.default_rng(0)
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = tuple(key.key for key in path)
        tensor = generator.uniform(0.1, 0.2, leaf.shape)
        if tensor.ndim > 1:  # from our order of axes to PyTorch's
            tensor = tensor.transpose(tensor.ndim - 1, tensor.ndim - 2, *range(tensor.ndim - 2))
        tensors[layouts_of(NAME)[0].name(path)] = tensor
    return tensors


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
