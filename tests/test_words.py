"""Names of classes, in the order of a network's outputs."""

import json

import numpy as np
import pytest

from se_flax import create_model
from se_flax.errors import UserError
from se_flax.loaded import load_weights
from se_flax.models import Preparation, model_info
from se_flax.pretrained.catalogue import catalogue, find_weights
from se_flax.pretrained.synsets import synsets_of
from se_flax.pretrained.words import classes_of, imagenet_words, in_words
from se_flax.published import PublishedNetwork, own_classes
from tests.stand_ins import STATED, publish, tensors_of


def test_imagenets_names_are_in_the_order_of_its_labels():
    words = imagenet_words()
    assert tuple(words) == synsets_of("imagenet2012")
    assert len(set(words.values())) == 1000
    names = classes_of("imagenet2012")
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert {i: names[i] for i in known} == known
    # Two words of WordNet that name two classes each.
    assert (names[134], names[517]) == ("crane bird", "crane")
    assert (names[638], names[639]) == ("maillot", "maillot tank suit")


def test_only_synsets_are_put_in_words():
    assert in_words(("n01443537", "cat", "n99999999")) == ("goldfish", "cat", "n99999999")


def test_the_classes_of_cifar_are_in_the_order_of_its_labels():
    names = classes_of("cifar10")
    assert (names[0], names[3], names[9]) == ("airplane", "cat", "truck")
    names = classes_of("cifar100")
    assert names == tuple(sorted(names))  # as their authors ordered them
    assert (len(names), names[0], names[99]) == (100, "apple", "worm")
    assert classes_of("svhn_cropped") is None


def published(name, num_classes, weights, known=None):
    model = create_model(name, num_classes)
    return PublishedNetwork(model_info(name), known, weights, model, {}, np.arange(num_classes))


def test_weights_of_the_catalogue_have_the_classes_of_their_data_set():
    for known in catalogue():
        if known.dataset == "imagenet2012":
            expected = tuple(imagenet_words().values())
        elif known.dataset == "svhn_cropped":
            expected = tuple("0123456789")
        else:
            expected = classes_of(known.dataset)
        network = published(known.model, len(expected), known.source, known)
        assert own_classes(network) == expected, known


def test_other_weights_have_stated_classes_or_those_of_imagenet_or_numbers(tmp_path):
    bare = publish(tmp_path / "bare" / "weights.safetensors", weights={"x": np.zeros(1)})
    assert own_classes(published("resnet18", 1000, bare))[1] == "goldfish"
    assert own_classes(published("resnet18", 12, bare)) == tuple(map(str, range(12)))
    stated = publish(tmp_path / "stated" / "model.safetensors", {"label_names": ["dog", "cat"]})
    assert own_classes(published("resnet18", 2, stated)) == ("dog", "cat")
    assert own_classes(published("resnet18", 3, stated)) == ("0", "1", "2")
    # Where the catalogue is known to have another number of classes, nothing is known.
    known = find_weights("se_resnet50_caffe")
    assert own_classes(published("se_resnet50_caffe", 3, known.source, known)) == ("0", "1", "2")


def test_a_network_with_published_weights_is_opened_like_a_run(tmp_path):
    tensors = tensors_of("resnet20_cifar", create_model("resnet20_cifar", 3), 32)
    config = {"pretrained_cfg": STATED, "label_names": ["n01443537", "dog", "cat"]}
    file = publish(tmp_path / "model.safetensors", config, tensors)
    loaded = load_weights("resnet20_cifar", file)
    assert loaded.classes == ("goldfish", "dog", "cat")
    assert loaded.preparation == Preparation(160, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    bias = loaded.variables["params"]["classifier"]["bias"]
    np.testing.assert_array_equal(bias, tensors["linear.bias"])
    assert load_weights("resnet20_cifar", file, "abc").classes == ("a", "b", "c")
    file.with_name("config.json").write_text(json.dumps({"pretrained_cfg": STATED}))
    assert load_weights("resnet20_cifar", file).classes == ("0", "1", "2")
    with pytest.raises(UserError, match=r"2 classes are named, but the weights in .* have 3"):
        load_weights("resnet20_cifar", file, ("a", "b"))
