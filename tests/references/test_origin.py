"""What is stated with weights on the hub, and in safetensors files, is heeded."""

import pytest

from se_flax import create_model
from se_flax.errors import Note, UserError
from se_flax.models import Preparation, model_info
from se_flax.pretrained import preparation
from se_flax.pretrained.described import stated_architecture
from se_flax.pretrained.load import UncertainNetwork
from tests.stand_ins import SMALL, STATED, Hub, load, publish, silence, tensors_of

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def weights():
    return tensors_of("resnet18", create_model("resnet18", 4, **SMALL))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return Hub(tmp_path, monkeypatch)


def test_a_hub_id_of_the_network_itself_is_loaded_without_a_word(hub, weights):
    hub.publish("timm/resnet18.mine", weights=weights)
    with silence():
        load("timm/resnet18.mine")
    assert hub.asked == ["model.safetensors"]


def test_a_hub_repository_without_safetensors_is_read_from_its_pytorch_file(hub, weights):
    import torch

    hub.publish("a/old", {"architecture": "resnet18"}, weights)
    (hub.folder / "a" / "old" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors and no pytorch_model\.bin"):
        load("a/old")
    state = {name: torch.from_numpy(tensor) for name, tensor in weights.items()}
    torch.save(state, hub.folder / "a" / "old" / "pytorch_model.bin")
    with silence():
        load("a/old")


def test_the_config_of_a_hub_repository_decides_what_the_network_is(hub, weights):
    hub.publish("a/same", {"architecture": "resnet18"}, weights)
    hub.publish("a/other", {"architecture": "resnetblur18"}, weights)
    hub.publish("a/strange", {"architecture": "resnet18z"}, weights)
    hub.publish("a/none", weights=weights)
    with silence():
        load("a/same")
    with pytest.raises(UserError, match="is for timm's resnetblur18; "):
        load("a/other")
    with pytest.warns(UncertainNetwork, match='for "resnet18z", which is not known here'):
        load("a/strange")
    with pytest.warns(UncertainNetwork, match="does not state its architecture.*resnetblur18"):
        load("a/none")


def test_timms_arguments_that_change_a_network_are_seen(hub, weights):
    arguments = {"architecture": "resnet18", "model_args": {"num_classes": 4, "drop_rate": 0.1}}
    hub.publish("a/harmless", arguments, weights)
    hub.publish("a/strided", {**arguments, "model_args": {"output_stride": 8}}, weights)
    hub.publish("a/max", {**arguments, "global_pool": "max"}, weights)
    with silence():
        load("a/harmless")
    assert stated_architecture("a/max") == "resnet18(global_pool=max)"
    with pytest.warns(UncertainNetwork, match=r"resnet18\(output_stride=8\)"):
        load("a/strided")


def test_a_hub_that_cannot_be_reached_costs_only_certainty(hub, weights, monkeypatch):
    hub.publish("a/cached", {"architecture": "resnet18"}, weights)

    def only_weights(repository, filename):
        hub.reachable = filename == "model.safetensors"
        return hub._download(repository, filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", only_weights)
    with pytest.warns(UncertainNetwork):
        load("a/cached")
    with pytest.raises(UserError, match=r"cannot read config\.json of a/cached .*: no network$"):
        preparation("resnet18", "a/cached")


def test_the_metadata_of_safetensors_may_state_the_architecture(tmp_path, weights):
    for name in ("resnet18", "resnetblur18"):
        publish(tmp_path / f"{name}.safetensors", None, weights, {"architecture": name})
    with silence():
        load(tmp_path / "resnet18.safetensors")
    with pytest.raises(UserError, match="is for timm's resnetblur18"):
        load(tmp_path / "resnetblur18.safetensors")


def test_a_checkpoint_of_pytorch_may_state_the_architecture(tmp_path, weights):
    import torch

    state = {name: torch.from_numpy(tensor) for name, tensor in weights.items()}
    for name in ("resnet18", "resnetblur18"):
        checkpoint = {"arch": name, "state_dict": state}
        torch.save(checkpoint, tmp_path / f"{name}.pth.tar")
    with silence():
        load(tmp_path / "resnet18.pth.tar")
    with pytest.raises(UserError, match="is for timm's resnetblur18"):
        load(tmp_path / "resnetblur18.pth.tar")


def test_preparation_is_stated_in_the_config_of_a_hub_repository(hub):
    stated = Preparation(160, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    hub.publish("timm/resnet18.x", {"architecture": "resnet18", "pretrained_cfg": STATED})
    hub.publish("a/old", {"architecture": "resnet18", **STATED})
    test = {**STATED, "test_input_size": [3, 192, 192], "test_crop_pct": 1.0}
    hub.publish("a/test", {"pretrained_cfg": test})
    hub.publish("a/silent", {"architecture": "resnet18"})
    with silence():
        assert preparation("resnet18", "timm/resnet18.x") == stated
        assert preparation("resnet18", "a/old") == stated
        assert preparation("resnet18", "a/test").size == 192
        assert preparation("resnet18", "a/test").crop_pct == 1.0
        assert preparation("resnet18", "a/silent") == model_info("resnet18").preparation
        assert preparation("resnet18", "no_such_file.pth") == model_info("resnet18").preparation
    hub.reachable = False
    with pytest.raises(UserError, match=r"cannot read config\.json of timm/resnet18\.x"):
        preparation("resnet18", "timm/resnet18.x")


def test_a_preparation_that_cannot_be_followed_is_noted_or_refused(hub):
    hub.publish("a/lanczos", {**STATED, "interpolation": "lanczos"})
    hub.publish("a/squash", {**STATED, "crop_mode": "squash"})
    hub.publish("a/gray", {**STATED, "mean": [0.5]})
    hub.publish("a/broken", {})
    (hub.folder / "a" / "broken" / "config.json").write_text("{")
    with pytest.warns(Note, match='resized by "lanczos"'):
        assert preparation("resnet18", "a/lanczos").interpolation == "bicubic"
    with pytest.warns(Note, match='in the mode "squash"'):
        preparation("resnet18", "a/squash")
    with pytest.raises(UserError, match="a/gray does not state how images are prepared"):
        preparation("resnet18", "a/gray")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        preparation("resnet18", "a/broken")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("std", [0.2, 0.0, 0.2], "std .* is not between 0.001 and 1"),
        ("mean", [123.7, 116.3, 103.5], "mean .* is not between 0 and 1"),
        ("mean", ["nan", 0.4, 0.4], "mean .* is not between 0 and 1"),
        ("crop_pct", 87.5, "crop 87.5 is out of range"),
        ("input_size", [3, 0, 0], "size 0 or crop"),
    ],
)
def test_a_preparation_out_of_range_is_refused(hub, field, value, words):
    hub.publish("a/wrong", {**STATED, field: value})
    with pytest.raises(UserError, match=rf"config\.json of a/wrong .*{words}"):
        preparation("resnet18", "a/wrong")


def test_what_a_config_leaves_empty_is_not_stated(hub, weights):
    empty = {"pretrained_cfg": None, "model_args": None, "global_pool": None}
    hub.publish("a/empty", {"architecture": "resnet18", **empty}, weights)
    hub.publish("a/unset", {**STATED, "interpolation": None})
    with silence():
        load("a/empty")
        assert preparation("resnet18", "a/empty") == model_info("resnet18").preparation
        assert preparation("resnet18", "a/unset").interpolation == "bilinear"
