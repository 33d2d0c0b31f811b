"""Weights without an auxiliary classifier, as TensorFlow's for Inception-v3."""

import jax
import numpy as np
import pytest

from se_flax import create_model, load_pretrained
from se_flax.init_from import published_variables, with_published
from se_flax.models.inception import ConvSpec, ModuleSpec
from se_flax.pretrained import load as loading
from se_flax.pretrained.load import NewAuxiliary
from se_flax.state import TrainState
from tests.stand_ins import silence, tensors_of

NAME = "inception_v3"
SMALL = {
    "stem": (ConvSpec("conv2d_1a", 2, 3, 8),),
    "stages": tuple(
        (ModuleSpec(name, ((ConvSpec("branch1x1", 2),),)),) for name in ("mixed_5b", "mixed_6a")
    ),
}


@pytest.fixture(autouse=True)
def tensors(monkeypatch):
    """Every source has weights for 4 classes, and no auxiliary classifier."""
    tensors = tensors_of(NAME, create_model(NAME, 4, auxiliary=False, **SMALL), 299)
    monkeypatch.setattr(loading, "read_tensors", lambda source: tensors)
    return tensors


def test_an_auxiliary_classifier_that_the_weights_lack_is_new(tensors):
    with pytest.warns(NewAuxiliary, match=r"w\.pth have no auxiliary classifier; it is newly"):
        variables = load_pretrained(NAME, "w.pth", **SMALL)
    np.testing.assert_array_equal(variables["params"]["classifier"]["bias"], tensors["fc.bias"])
    model, images = create_model(NAME, 4, **SMALL), np.ones((1, 299, 299, 3), np.float32)
    fresh = jax.jit(lambda: model.init(jax.random.key(0), images))()
    jax.tree.map(lambda a, b: np.testing.assert_equal(np.shape(a), b.shape), variables, fresh)
    assert variables["params"]["auxiliary_classifier"]["kernel"].shape == (768, 4)
    logits, _ = jax.jit(
        lambda v: model.apply(
            v, images, True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
        )
    )(variables)
    assert np.isfinite(logits).all()
    with silence():
        variables = load_pretrained(NAME, "w.pth", auxiliary=False, **SMALL)
    assert not [name for name in variables["params"] if "auxiliary" in name]


def test_some_tensors_of_an_auxiliary_classifier_are_not_enough(tensors):
    tensors["AuxLogits.fc.bias"] = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"missing .*AuxLogits"):
        load_pretrained(NAME, "w.pth", **SMALL)


def test_in_a_run_the_seed_initialises_an_auxiliary_classifier(tensors, capsys):
    variables = published_variables(NAME, "w.pth", 4, SMALL)
    assert "no auxiliary classifier" in capsys.readouterr().out
    for kind in ("params", "batch_stats"):
        assert not [name for name in variables[kind] if "auxiliary" in name]

    model, images = create_model(NAME, 4, **SMALL), np.ones((1, 299, 299, 3), np.float32)
    fresh = jax.jit(lambda: model.init(jax.random.key(7), images))()
    zero = np.int32(0)
    state = TrainState(zero, np.uint32(7), fresh["params"], fresh["batch_stats"], opt_state=())
    started = with_published(state, variables)
    for kind in ("params", "batch_stats"):
        before, after = fresh[kind], getattr(started, kind)
        for name in ("auxiliary_conv1", "auxiliary_conv2"):
            jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
    np.testing.assert_array_equal(started.params["classifier"]["bias"], tensors["fc.bias"])
