"""Published weights for CIFAR are read from their authors' files and evaluated as theirs."""

import functools
import shutil

import jax
import numpy as np
import pytest

import se_flax
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_pretrained

pytestmark = pytest.mark.references

# The name of a published file, our network, the library's, and the fields that ours needs.
FILES = [
    ("resnet20-12fca82f.th", "resnet20_cifar", "akamaster:resnet20", {}),
    (
        "cifar10_resnet20-4118986f.pt",
        "resnet20_cifar",
        "chenyaofo:resnet20",
        {"projection": True},
    ),
    (
        "seresnet20_cifar10-0601-935d8943.pth",
        "se_resnet20_cifar",
        "pytorchcv:seresnet20",
        {"projection": True},
    ),
]
NORMALISATION = {
    "akamaster": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "chenyaofo": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "pytorchcv": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


@functools.cache
def network(reference):
    from tests.references import cifar_models, torch_models

    library, _, name = reference.partition(":")
    return torch_models.randomise(cifar_models.build(library, name, num_classes=10), 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of the published form, with random weights."""
    import torch

    folder = tmp_path_factory.mktemp("weights")
    for file, _, reference, _ in FILES:
        content = network(reference).float().state_dict()
        if reference.startswith("akamaster"):
            content = {f"module.{name}": tensor for name, tensor in content.items()}
            content = {"state_dict": content, "best_prec1": torch.tensor(91.73)}
        new = not file.endswith(".th")
        torch.save(content, folder / file, _use_new_zipfile_serialization=new)
    return folder


@pytest.mark.parametrize(("file", "name", "reference", "fields"), FILES)
def test_a_file_gives_the_logits_of_its_authors_network(folder, file, name, reference, fields):
    from tests.references import torch_models

    variables = se_flax.load_pretrained(name, folder / file, **fields)
    model = se_flax.create_model(name, 10, **fields)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    expected = torch_models.logits(network(reference), images)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.max(np.abs(expected)))


@pytest.mark.parametrize(("file", "name", "reference", "fields"), FILES)
def test_images_are_normalised_as_by_the_authors(folder, tfds_dir, file, name, reference, fields):
    import torch

    from se_flax.data.sources import TfdsImages, load_dataset

    test = load_dataset("cifar10", tfds_dir).test
    mean, std = NORMALISATION[reference.partition(":")[0]]
    images = ((test.images / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(reference).double()(torch.from_numpy(images))
    labels = torch.from_numpy(test.labels).long()
    expected = torch.nn.functional.cross_entropy(logits, labels)

    results = evaluate_pretrained(name, folder / file, TfdsImages("cifar10", "test", tfds_dir))
    assert results["loss"] == pytest.approx(float(expected), rel=1e-4)
    correct = (logits.argmax(1) == labels).double().mean()
    assert results["top1"] == pytest.approx(100 * float(correct))
    assert results["published"][0]["source"].startswith(f"{file} on cifar10 by README")


def test_a_file_is_read_once(folder, monkeypatch):
    from se_flax.pretrained import load
    from se_flax.published import load_published

    read, reads = load.read_torch, []
    monkeypatch.setattr(load, "read_torch", lambda path: reads.append(path) or read(path))
    load_published("resnet20_cifar", folder / FILES[1][0], tuple("abcdefghij"))
    assert reads == [folder / FILES[1][0]]


def test_weights_in_no_catalogue_get_the_normalisation_of_the_data_set(folder, tfds_dir, tmp_path):
    from se_flax.data.sources import TfdsImages

    (tmp_path / "mine.th").write_bytes((folder / FILES[0][0]).read_bytes())
    source = TfdsImages("cifar10", "test", tfds_dir)
    results = evaluate_pretrained("resnet20_cifar", tmp_path / "mine.th", source)
    assert results["mean"] == [0.4914, 0.4822, 0.4465]
    assert results["std"] == [0.2470, 0.2435, 0.2616]
    assert results["crop_pct"] == 1.0


def test_the_command_evaluates_on_the_test_split(folder, tfds_dir, run_python):
    file = folder / FILES[0][0]
    process = run_python(
        "-m", "se_flax.evaluate", "--model=resnet20_cifar", f"--weights={file}",
        "--dataset=cifar10", f"--data_dir={tfds_dir}",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "on cifar10 test, 110 images, 32 pixels, crop 1.0" in process.stdout
    assert "top-1 error  8.27%" in process.stdout


def test_the_command_notes_that_weights_are_of_another_data_set(folder, tfds_dir, run_python):
    file = folder / "seresnet20_svhn-0323-d77df31c.pth"
    shutil.copy(folder / FILES[2][0], file)
    process = run_python(
        "-m", "se_flax.evaluate", "--model=se_resnet20_cifar", f"--weights={file}",
        "--dataset=cifar10", f"--data_dir={tfds_dir}",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    words = "was trained on svhn_cropped, and the images are those of cifar10;"
    assert f"note: {file} {words}" in process.stderr


def test_a_network_without_the_field_of_the_weights_is_refused(folder):
    words = 'cifar-models\' tensor names, so it is for "resnet20_cifar" with projection=True; give'
    with pytest.raises(UserError, match=words):
        se_flax.load_pretrained("resnet20_cifar", folder / FILES[1][0])
    with pytest.raises(UserError, match=r"missing \(layer2.0.downsample"):
        se_flax.load_pretrained("resnet20_cifar", folder / FILES[0][0], projection=True)


def test_other_depths_and_networks_are_refused(folder, tmp_path):
    shutil.copy(folder / FILES[0][0], tmp_path / "mine.th")
    shutil.copy(folder / FILES[2][0], tmp_path / "se.pth")
    for name in ("resnet32_cifar", "resnet164_cifar", "preact_resnet164_cifar"):
        with pytest.raises(UserError, match=f'no weights for "{name}": the weights do not fit'):
            se_flax.load_pretrained(name, tmp_path / "mine.th")
        with pytest.raises(UserError, match=f'for "resnet20_cifar", not for "{name}"'):
            se_flax.load_pretrained(name, folder / FILES[0][0])
    with pytest.raises(UserError, match="left over"):
        se_flax.load_pretrained("resnet20_cifar", tmp_path / "se.pth", projection=True)


def test_a_wider_network_is_not_cut_to_size(tmp_path):
    import torch

    state = {}
    for name, tensor in network("akamaster:resnet20").float().state_dict().items():
        for axis in range(min(tensor.ndim, 2)):
            if tensor.shape[axis] in (16, 32, 64):
                tensor = tensor.repeat_interleave(2, axis)
        state[name] = tensor
    torch.save(state, tmp_path / "wide.th")
    with pytest.raises(UserError, match="of the wrong shape"):
        se_flax.load_pretrained("resnet20_cifar", tmp_path / "wide.th")
