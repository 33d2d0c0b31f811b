"""Published weights are evaluated as PyTorch evaluates them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from se_flax.data.folders import ImageFolder
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_pretrained
from se_flax.models import Preparation
from se_flax.pretrained.catalogue import catalogue
from se_flax.pretrained.synsets import synsets_of
from se_flax.published import load_published

pytestmark = pytest.mark.references

# Three of ImageNet's classes, with their places in its order.
SYNSETS = {"n01440764": 0, "n01443537": 1, "n02102040": 217}


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    """Seven noisy JPEGs of several sizes, in folders of three classes."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(7):
        low = generator.integers(0, 256, (5, 6, 3), np.uint8)
        image = Image.fromarray(low).resize((250 + 20 * i, 330 - 15 * i), Image.Resampling.BICUBIC)
        (folder / list(SYNSETS)[i % 3]).mkdir(exist_ok=True)
        image.save(folder / list(SYNSETS)[i % 3] / f"{i}.jpeg", quality=95)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A PyTorch file of ResNet-18 with random weights, and the network."""
    import torch

    from tests.references import torch_models

    theirs = torch_models.randomise(torch_models.build("torchvision:resnet18"), 64)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(theirs.state_dict(), path)
    return path, theirs


def test_loss_and_accuracies_are_those_of_pytorch(image_dir, weights):
    import torch

    from tests.references.torch_models import torchvision

    path, theirs = weights
    transforms = torchvision.transforms
    preprocess = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = sorted(image_dir.rglob("*.jpeg"))
    images = torch.stack([preprocess(Image.open(file)) for file in files])
    with torch.no_grad():
        logits = theirs.float()(images)
    labels = torch.tensor([SYNSETS[file.parent.name] for file in files])
    expected = torch.nn.functional.cross_entropy(logits, labels)

    results = evaluate_pretrained("resnet18", path, ImageFolder.of(image_dir), batch_size=4)
    assert results["images"] == 7
    assert results["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert results["top1"] == 0

    # If all images get the label that the network predicts for one of them, some are correct.
    said = logits.argmax(1)[labels == 217]
    source = dataclasses.replace(
        ImageFolder.of(image_dir),
        class_names=tuple(str(i) for i in range(1000)),
        labels=(int(said[0]),) * 7,
    )
    hits = float((logits.argmax(1) == said[0]).double().mean())
    top5 = float((logits.topk(5).indices == said[0]).any(1).double().mean())
    results = evaluate_pretrained("resnet18", path, source, batch_size=3)
    assert results["top1"] == pytest.approx(100 * hits)
    assert results["top5"] == pytest.approx(100 * top5)


def test_images_are_prepared_as_is_stated_with_the_weights(image_dir, weights, tmp_path):
    import torch

    from tests.references.torch_models import torchvision

    path, theirs = weights
    half = (0.5, 0.5, 0.5)
    config = {"input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bicubic"}
    config = {"architecture": "resnet18", "pretrained_cfg": {**config, "mean": half, "std": half}}
    shutil.copy(path, tmp_path / "stated.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    transforms = torchvision.transforms
    resize = transforms.Resize(64, interpolation=transforms.InterpolationMode.BICUBIC)
    steps = [resize, transforms.CenterCrop(64), transforms.ToTensor()]
    preprocess = transforms.Compose([*steps, transforms.Normalize(half, half)])
    files = sorted(image_dir.rglob("*.jpeg"))
    labels = torch.tensor([SYNSETS[file.parent.name] for file in files])
    with torch.no_grad():
        logits = theirs.float()(torch.stack([preprocess(Image.open(file)) for file in files]))
    expected = float(torch.nn.functional.cross_entropy(logits, labels))

    source = ImageFolder.of(image_dir)
    results = evaluate_pretrained("resnet18", tmp_path / "stated.pth", source)
    assert results["loss"] == pytest.approx(expected, rel=1e-4)
    assert (results["input_size"], results["mean"], results["std"]) == (64, [0.5] * 3, [0.5] * 3)
    given = Preparation(64, 1.0, "bicubic", half, half)
    assert (
        evaluate_pretrained("resnet18", path, source, preparation=given)["loss"]
        == (results["loss"])
    )
    assert evaluate_pretrained("resnet18", path, source)["loss"] != results["loss"]


def test_classes_unknown_to_the_weights_are_refused(image_dir, weights):
    source = dataclasses.replace(ImageFolder.of(image_dir), class_names=("a", "b", "c"))
    with pytest.raises(
        UserError, match=r"have 3 classes \(a, b, c, ...\), but the weights have 1000"
    ):
        evaluate_pretrained("resnet18", weights[0], source)


def test_all_synsets_in_another_order_are_matched_by_name(weights):
    classes, names = synsets_of("imagenet2012"), synsets_of("imagenet_resized/64x64")
    assert names != classes
    places = load_published("resnet18", weights[0], names).places
    assert tuple(classes[place] for place in places) == names


def test_the_command_shows_the_published_figures(image_dir, run_python, tmp_path):
    import torch

    from tests.references import torch_models

    theirs = torch_models.build("timm:legacy_seresnet50")
    torch.save(theirs.state_dict(), tmp_path / "seresnet50.pth")
    process = run_python(
        "-m", "se_flax.evaluate", "--model=se_resnet50_caffe", f"--image_dir={image_dir}",
        f"--weights={tmp_path / 'seresnet50.pth'}",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "top-1 error 22.37%, top-5 error  6.36%: released weights" in process.stdout
    results = json.loads(process.stdout.splitlines()[-1])
    assert results["images"] == 7
    assert results["published"][1]["top1_error"] == 22.37


def test_the_catalogue_agrees_with_timm():
    from se_flax.models import model_info
    from tests.references.torch_models import timm

    on_hub = [weights for weights in catalogue() if not weights.file]
    assert len(on_hub) > 20
    for weights in on_hub:
        config = timm.get_pretrained_cfg(weights.source.removeprefix("timm/"))
        info = model_info(weights.model)
        assert weights.input_size == (config.test_input_size or config.input_size)[1]
        assert weights.crop_pct == (config.test_crop_pct or config.crop_pct)
        assert weights.interpolation == config.interpolation
        assert (info.mean, info.std) == (config.mean, config.std)


def test_the_catalogue_agrees_with_torchvision():
    from se_flax.pretrained.architectures import architectures
    from tests.references.torch_models import torchvision

    rows = {
        weights.source: weights for weights in catalogue() if "download.pytorch" in weights.source
    }
    found = set()
    for known in architectures():
        if known.library != "torchvision" or known.name.startswith("quantized"):
            continue
        for theirs in torchvision.models.get_model_weights(known.name):
            errors = [100 - value for value in theirs.meta["_metrics"]["ImageNet-1K"].values()]
            if np.isnan(errors[0]):  # without a classifier
                continue
            ours, transform = rows[theirs.url], theirs.transforms()
            found.add(theirs.url)
            assert ours.model == known.computed_by
            assert [ours.top1_error, ours.top5_error] == pytest.approx(errors, abs=1e-6)
            assert [ours.input_size] == transform.crop_size
            assert [int(ours.input_size / ours.crop_pct)] == transform.resize_size
            assert ours.interpolation == transform.interpolation.value
            if known.name != "inception_v3":  # it normalises again, to a mean and std of 0.5
                assert list(ours.preparation.mean) == transform.mean
                assert list(ours.preparation.std) == transform.std
    assert found == set(rows)
