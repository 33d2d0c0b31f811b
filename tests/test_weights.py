"""The weights that are in the repository."""

import json
import os
import pathlib

import numpy as np
import pytest

import se_flax
from se_flax.data.sources import TfdsImages
from se_flax.evaluate import evaluate_pretrained
from se_flax.loaded import load_weights
from tests.conftest import ROOT

FILE = ROOT / "experiments" / "results" / "weights" / "se_resnet20_cifar10.safetensors"
RESULT = ROOT / "experiments" / "results" / "backbones" / "budget" / "cifar10_resnet20_se.json"


def test_the_trained_network_is_loaded_by_name_with_its_classes_and_preparation():
    variables = se_flax.load_pretrained("se_resnet20_cifar", FILE)
    loaded = load_weights("se_resnet20_cifar", FILE)
    assert loaded.classes[:4] == ("airplane", "automobile", "bird", "cat")
    logits = loaded.network.apply(variables, loaded.prepare(np.zeros((32, 32, 3), np.uint8)))
    assert logits.shape == (1, 10)
    assert loaded.preparation.size == 32


@pytest.mark.skipif(
    not pathlib.Path(os.environ.get("TFDS_DATA_DIR", ""), "cifar10").is_dir(),
    reason="needs CIFAR-10, prepared in $TFDS_DATA_DIR",
)
def test_its_accuracy_is_the_reported_one():
    (reported,) = (each for each in json.loads(RESULT.read_text())["results"] if each["seed"] == 0)
    result = evaluate_pretrained("se_resnet20_cifar", FILE, TfdsImages("cifar10", "test"))
    assert result["images"] == 10_000
    assert result["top1"] == pytest.approx(reported["final"]["top1"], abs=0.02)  # two images
    assert result["loss"] == pytest.approx(reported["final"]["loss"], rel=1e-3)
