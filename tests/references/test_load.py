"""Published weights are read from files and the hub, and bad ones are refused."""

import os
import pathlib
import pickle

import jax
import numpy as np
import pytest

import se_flax
from se_flax.errors import UserError

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def reference():
    from tests.references import torch_models

    return torch_models.randomise(torch_models.build("timm:legacy_seresnet50"), 65)


@pytest.fixture(scope="module")
def files(reference, tmp_path_factory):
    """The reference's weights in every format that is read."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    state = reference.state_dict()
    save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save({**wrapped, "epoch": 3}, folder / "checkpoint.bin")
    return folder


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "weights.pth", "old.pth", "checkpoint.bin"]
)
def test_every_format_gives_the_references_logits(files, reference, file):
    from tests.references import torch_models

    variables = se_flax.load_pretrained("se_resnet50_caffe", files / file)
    images = np.random.default_rng(0).standard_normal((1, 65, 65, 3), np.float32)
    model = se_flax.create_model("se_resnet50_caffe")
    logits = jax.jit(model.apply)(variables, images)
    expected = torch_models.logits(reference, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.max(np.abs(expected)))
    reference.float()


def test_a_hub_id_is_fetched_from_the_hub(files, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        return str(files / "weights.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    variables = se_flax.load_pretrained("se_resnet50_caffe", "timm/legacy_seresnet50.in1k")
    assert asked == [("timm/legacy_seresnet50.in1k", "model.safetensors")]
    assert variables["params"]["classifier"]["bias"].shape == (1000,)


def test_an_unreachable_hub_is_reported_in_one_sentence(monkeypatch):
    import huggingface_hub

    def download(*args):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nlong story")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"from the Hugging Face hub: no network$"):
        se_flax.load_pretrained("se_resnet50_caffe", "timm/legacy_seresnet50.in1k")


def test_a_hub_id_is_asked_for_by_a_process_that_has_imported_nothing_else(run_python, tmp_path):
    script = "import se_flax; se_flax.load_pretrained('resnet50', 'timm/resnet50.a1_in1k')"
    process = run_python("-c", script, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "UserError: cannot read model.safetensors of timm/resnet50.a1_in1k" in process.stderr


def test_another_number_of_classes_keeps_the_backbone_and_says_so(files):
    with pytest.warns(
        UserWarning, match="for 1000 classes; the backbone is loaded.* 7 classes is newly"
    ):
        variables = se_flax.load_pretrained(
            "se_resnet50_caffe", files / "weights.safetensors", num_classes=7
        )
    assert variables["params"]["classifier"]["kernel"].shape == (2048, 7)


def test_the_usual_form_refuses_weights_of_the_caffe_form(files):
    with pytest.raises(UserError, match='has no weights for "se_resnet50"'):
        se_flax.load_pretrained("se_resnet50", files / "weights.safetensors")


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth", "old.pth"])
def test_a_truncated_file_is_refused(files, tmp_path, file):
    path = tmp_path / file
    path.write_bytes((files / file).read_bytes()[:-100_000])
    with pytest.raises(UserError, match="damaged"):
        se_flax.load_pretrained("se_resnet50_caffe", path)


class Malice:
    """When unpickled, makes a file."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path, zipped):
    import torch

    trace, path = tmp_path / "it ran", tmp_path / "weights.pth"
    torch.save({"a": Malice(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="more than tensors"):
        se_flax.load_pretrained("se_resnet50_caffe", path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Malice(trace)))
    with pytest.raises(UserError):
        se_flax.load_pretrained("se_resnet50_caffe", path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have


def test_a_file_that_holds_no_weights_is_reported(tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"last_linear.bias": torch.zeros(())}, tmp_path / "scalar.pth")
    eighths = {"last_linear.bias": torch.zeros(3, dtype=torch.float8_e4m3fn)}
    save_file(eighths, tmp_path / "eighths.safetensors")
    (tmp_path / "weights.txt").write_text("0.1")
    (tmp_path / "weights.pth.zip").write_text("PK")
    for source, words in (
        (tmp_path / "list.pth", "must contain a state dict"),
        (tmp_path / "weights.txt", "unknown file type; give a .safetensors"),
        (tmp_path / "weights.pth.zip", "is an archive; unzip it and give the file"),
        (tmp_path / "none.pth", "there is no file"),
        (tmp_path, "is a folder; give the path of the file"),
        (tmp_path / "scalar.pth", r"1 of the wrong shape, .* \(last_linear\.bias \[\]"),
        (tmp_path / "eighths.safetensors", "of a type that cannot be read .*save them as float32"),
    ):
        with pytest.raises(UserError, match=words):
            se_flax.load_pretrained("se_resnet50_caffe", source)
    with pytest.raises(UserError, match="num_classes must be a whole number of at least 1, not 0"):
        se_flax.load_pretrained("se_resnet50_caffe", tmp_path / "scalar.pth", num_classes=0)
    with pytest.raises(UserError, match='no published weights are known for "se_inception_v3"'):
        se_flax.load_pretrained("se_inception_v3", tmp_path / "list.pth")
