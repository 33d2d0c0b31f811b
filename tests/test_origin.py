"""What is stated with weights decides which network they are for, and how images are prepared."""

import sys

import pytest

from se_flax import create_model, list_models, load_pretrained
from se_flax.errors import UserError
from se_flax.models import Preparation, model_info
from se_flax.pretrained import load as loading
from se_flax.pretrained import preparation
from se_flax.pretrained.architectures import (
    architectures,
    check_architecture,
    with_tensors_of,
)
from se_flax.pretrained.catalogue import catalogue
from se_flax.pretrained.layouts import layouts_of
from se_flax.pretrained.load import UncertainNetwork
from tests.stand_ins import SMALL, STATED, load, publish, silence, tensors_of


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    """Every source has weights of a small ResNet-18."""
    tensors = tensors_of("resnet18", create_model("resnet18", 4, **SMALL))
    monkeypatch.setattr(loading, "read_tensors", lambda source: tensors)


@pytest.fixture
def no_hub(monkeypatch):
    """Any use of the hub fails."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.parametrize(
    ("name", "source", "choice"),
    [
        ("resnet50", "timm/resnetaa50.a1h_in1k", "weights of timm's resnet50"),
        ("resnet50", "timm/resnetblur50.bt_in1k", "weights of timm's resnet50"),
        ("resnet50_caffe", "timm/resnet50.a1_in1k", 'the model "resnet50"'),
        ("se_resnet50", "timm/legacy_seresnet50.other", 'the model "se_resnet50_caffe"'),
        ("efficientnet_b0", "timm/efficientnet_b0.other", 'the model "efficientnet_b0_torch"'),
        ("efficientnet_b0", "timm/efficientnet_b0.other", "weights of timm's tf_efficientnet_b0"),
        ("resnet50", "timm/resnet50d.a1_in1k", 'the model "resnet50d"'),
        ("resnet50", "timm/resnet50c.gluon_in1k", "weights of timm's resnet50"),
        ("resnet50", "timm/vit_base_patch16_224.augreg_in1k", "weights of timm's resnet50"),
    ],
)
def test_hub_ids_of_lookalikes_are_refused_before_anything_is_fetched(no_hub, name, source, choice):
    with pytest.raises(UserError, match="computes differently from that network; choose") as error:
        load_pretrained(name, source)
    assert choice in str(error.value)


def test_a_name_that_two_libraries_use_counts_for_both():
    for name in ("efficientnet_b5_torch", "efficientnet_b5_timm"):
        assert check_architecture(name, "weights.pth", "efficientnet_b5") is None
    with pytest.raises(UserError, match="is for timm's efficientnet_b5; "):
        check_architecture("efficientnet_b5_torch", "timm/x", "efficientnet_b5", "timm")


def test_a_file_of_the_catalogue_is_known_by_its_name(tmp_path):
    file = publish(tmp_path / "resnet18-f37072fd.pth")
    with silence():
        load(file)
    with pytest.raises(UserError, match='has weights for "resnet18", not for "resnet34"'):
        load_pretrained("resnet34", file)
    newer = preparation("resnet50", "downloads/resnet50-11ad3fa6.pth")
    assert newer.crop_pct == 0.9655
    publish(file, {"architecture": "resnetblur18"})
    with pytest.raises(UserError, match="is for timm's resnetblur18"):
        load(file)


def test_a_bare_file_is_loaded_with_a_note_if_it_may_be_another_network(tmp_path):
    with pytest.warns(UncertainNetwork) as notes:
        load(publish(tmp_path / "weights.pth"))
    (note,) = notes
    text = str(note.message)
    assert "\n" not in text
    assert 'is read as "resnet18"; timm\'s resnetblur18 has the same tensors' in text


def test_a_bare_file_that_can_only_be_one_network_is_loaded_without_a_word(tmp_path, monkeypatch):
    small = {"stage_sizes": (1, 1), "widths": (4, 8), "reduction": 2}
    name = "se_resnet50_caffe"
    tensors = tensors_of(name, create_model(name, 4, **small), 32)
    monkeypatch.setattr(loading, "read_tensors", lambda source: tensors)
    with silence():
        load_pretrained(name, publish(tmp_path / "weights.pth"), **small)


@pytest.mark.parametrize("library", ["timm's", "torchvision's"])
def test_the_names_of_tensors_leave_fewer_networks(tmp_path, monkeypatch, library):
    small = {"width_coefficient": 0.25, "depth_coefficient": 0.3}
    name = "efficientnet_b0_torch"
    (layout,) = [layout for layout in layouts_of(name) if layout.source == library]
    tensors = tensors_of(name, create_model(name, 4, **small), 32, layout)
    monkeypatch.setattr(loading, "read_tensors", lambda source: tensors)
    file = publish(tmp_path / "weights.pth")
    # Only timm has networks with these names that compute differently.
    words = "timm's efficientnet_blur_b0 have the same tensors"
    note = pytest.warns(UncertainNetwork, match=words) if library == "timm's" else silence()
    with note:
        load_pretrained(name, file, **small)


def test_a_config_next_to_a_file_counts_if_it_can_only_mean_this_file(tmp_path):
    with silence():
        load(publish(tmp_path / "same" / "weights.pth", {"architecture": "resnet18"}))
    file = publish(tmp_path / "other" / "weights.pth", {"architecture": "resnetblur18"})
    with pytest.raises(UserError, match="is for timm's resnetblur18"):
        load(file)
    publish(file.with_name("second.pth"))
    with pytest.warns(UncertainNetwork, match="does not state"):
        load(file)


def test_a_file_in_a_folder_named_timm_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = publish(tmp_path / "timm" / "mine.pth")
    with pytest.warns(UncertainNetwork, match="does not state"):
        load(file.relative_to(tmp_path))


def test_every_architecture_is_of_registered_networks():
    for known in architectures():
        assert known.tensors in list_models()
        assert layouts_of(known.tensors), known
        assert known.computed_by in ["", *list_models()]
        if known.computed_by:
            assert known in with_tensors_of(known.computed_by)
    names = [(known.library, known.name) for known in architectures()]
    assert len(set(names)) == len(names)


def test_the_architectures_of_the_catalogue_are_known_to_be_computed():
    for entry in catalogue():
        if entry.file:  # to be downloaded, and not of timm
            continue
        name = entry.source.removeprefix("timm/").partition(".")[0]
        (known,) = [one for one in architectures() if (one.library, one.name) == ("timm", name)]
        assert known.computed_by == entry.model


def test_preparation_is_the_catalogues(no_hub):
    assert preparation("se_resnet50") == Preparation(
        288, 0.95, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    source = "timm/seresnext50_32x4d.gluon_in1k"
    assert preparation("se_resnext50_32x4d", source).size == 224
    assert preparation("inception_v3").mean == (0.5, 0.5, 0.5)


def test_a_config_next_to_a_file_states_its_preparation(tmp_path):
    file = publish(tmp_path / "weights.pth", {"architecture": "resnet18", "pretrained_cfg": STATED})
    assert preparation("resnet18", file) == Preparation(
        160, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    )
    bare = publish(tmp_path / "bare" / "weights.pth")
    assert preparation("resnet18", bare) == model_info("resnet18").preparation


def test_networks_for_cifar_have_the_values_of_cifar10():
    small = [name for name in list_models() if model_info(name).input_size == 32]
    assert "se_resnet20_cifar" in small
    for name in small:
        assert model_info(name).mean == (0.4914, 0.4822, 0.4465)
        assert model_info(name).std == (0.2470, 0.2435, 0.2616)
