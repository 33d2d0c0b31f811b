import pathlib
import sys

import pytest

from se_flax import list_models, load_pretrained
from se_flax.errors import Note, UserError
from se_flax.models import model_info
from se_flax.pretrained.catalogue import catalogue, find_weights
from se_flax.pretrained.layouts import layouts_of
from se_flax.published import load_published, preparation_for, warn_of_other_dataset
from tests.stand_ins import silence


def test_the_weights_of_every_entry_of_the_catalogue_can_be_read():
    for weights in catalogue():
        assert weights.model in list_models()
        assert layouts_of(weights.model), weights.model


def test_the_default_weights_of_the_released_networks_score_the_published_errors():
    released = [
        "se_resnet50_caffe", "se_resnet101_caffe", "se_resnet152_caffe",
        "se_resnext50_32x4d_caffe", "se_resnext101_32x4d_caffe", "senet154",
    ]  # fmt: skip
    for name in released:
        (official,) = [p for p in model_info(name).published if "hujie-frank" in p.source]
        assert find_weights(name).top1_error == pytest.approx(official.top1_error, abs=0.15)
        assert find_weights(name).top5_error == pytest.approx(official.top5_error, abs=0.15)


def test_published_results_are_of_registered_networks():
    assert model_info("resnet50_caffe").published[0].top1_error == 24.80
    assert model_info("se_resnet50_caffe").published[0].top1_error == 23.29
    with_results = [name for name in list_models() if model_info(name).published]
    # Table 2, SENet-154, CIFAR, EfficientNet in TensorFlow and PyTorch, MobileNet V1 and V3,
    # ShuffleNet, SKNet-50 and RegNetY: each network plain and with SE, or by two names. RegNetX:
    # without SE.
    assert len(with_results) == 2 * (8 + 1 + 4 + 8 + 8 + 1 + 2 + 1 + 1 + 10) + 10


def test_weights_of_another_network_are_refused_before_they_are_fetched():
    with pytest.raises(
        UserError, match='has weights for "se_resnet50_caffe", not for "se_resnet50"'
    ):
        load_pretrained("se_resnet50", "timm/legacy_seresnet50.in1k")


def test_both_names_of_a_network_have_its_results_and_weights():
    for name in ("senet154", "efficientnet_b0"):
        assert model_info(f"se_{name}").published == model_info(name).published
        assert find_weights(f"se_{name}") == find_weights(name)


def test_published_errors_are_plausible():
    for name in list_models():
        for result in model_info(name).published:
            assert 2 < result.top1_error < 40
            assert result.top5_error is None or 2 < result.top5_error < result.top1_error / 2
    for weights in catalogue():
        if weights.dataset != "imagenet2012":
            continue
        assert 13 < weights.top1_error < 33
        assert 1.5 < weights.top5_error < weights.top1_error / 2
        # The published error of the same network, of another recipe and often of smaller images:
        # timm's RegNetY-8GF at 288 pixels is 4.03 points better than the paper's at 224. SWAG is
        # trained on billions of other images first.
        most = 6 if "swag" in weights.source else 4.1
        for result in model_info(weights.model).published:
            assert abs(weights.top1_error - result.top1_error) < most
    for name in ("resnet50_caffe", "resnext101_32x4d_caffe", "vgg16_bn", "bn_inception"):
        plain, with_se = (model_info(n).published[0] for n in (name, f"se_{name}"))
        assert with_se.top1_error < plain.top1_error
        assert with_se.top5_error < plain.top5_error


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("efficientnet_b0", "timm/efficientnet_b0.ra4_e3600_r224_in1k"),
        ("efficientnet_b0_torch", "timm/tf_efficientnet_b0.in1k"),
        ("efficientnet_b1_torch", "timm/efficientnet_b1_pruned.in1k"),
        ("efficientnet_b5_timm", "timm/efficientnet_b5_other.in1k"),
        ("resnet50_caffe", "timm/resnet50.a1_in1k"),
        ("se_resnet50", "timm/legacy_seresnet50.other"),
    ],
)
def test_ids_of_networks_that_compute_differently_are_refused(name, source):
    with pytest.raises(UserError, match="computes differently from that network; choose"):
        load_pretrained(name, source)


def test_the_hub_is_not_asked_how_to_prepare_images_for_another_network(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="is for timm's resnetaa50"):
        preparation_for("resnet50", "timm/resnetaa50.a1h_in1k")


def test_the_catalogue_is_listed(run_python, run_command):
    process = run_python("-m", "se_flax.pretrained", "se_resnet50*")
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if "timm/" in line]
    assert [line.split()[0] for line in lines] == ["se_resnet50_caffe", "se_resnet50"]
    assert run_command("se_flax.pretrained", "nothing*").returncode == 2


def test_files_to_download_are_listed_with_their_data_set_and_normalisation(run_command):
    process = run_command("se_flax.pretrained", "resnet20_cifar")
    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if "resnet20-12fca82f.th" in line]
    for words in ("cifar10 ", "0.4850 0.4560 0.4060", "0.2290 0.2240 0.2250", " 8.27 ", "https://"):
        assert words in line
    (line,) = [line for line in process.stdout.splitlines() if "cifar100_resnet20-" in line]
    for words in ("cifar100 ", "0.5070 0.4865 0.4409", " 31.17 ", " 8.99 "):
        assert words in line
    assert "Caffe" not in process.stdout


def test_a_downloaded_file_is_recognised_by_its_name():
    known = find_weights("resnet20_cifar", "~/Downloads/resnet20-12fca82f.th")
    assert (known.top1_error, known.mean) == (8.27, (0.485, 0.456, 0.406))
    zipped = find_weights("se_resnet20_cifar", pathlib.Path("seresnet20_svhn-0323-d77df31c.pth"))
    assert (zipped.dataset, zipped.top1_error, zipped.top5_error) == ("svhn_cropped", 3.23, None)
    assert find_weights("resnet20_cifar", "weights.th") is None
    assert find_weights("resnet32_cifar", "resnet20-12fca82f.th") is None
    assert find_weights("resnet20_cifar") is None  # there is nothing on the hub


def test_published_errors_on_small_images_are_plausible():
    limits = {"cifar10": (3.3, 8.5), "cifar100": (19, 32), "svhn_cropped": (2.3, 3.5)}
    files = [weights for weights in catalogue() if weights.file]
    assert len({weights.file for weights in files}) == len(files)
    files = [weights for weights in files if weights.dataset != "imagenet2012"]
    assert {weights.dataset for weights in files} == set(limits)
    for weights in files:
        low, high = limits[weights.dataset]
        assert low < weights.top1_error < high, weights.file
        if "osmr" in weights.source:  # the names of these files have the error
            assert f"-{round(100 * weights.top1_error):04d}-" in weights.file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("se_preact_resnet110_cifar", "sepreresnet has a batch norm after its first convolution"),
        ("preact_resnet110_cifar", "preresnet110 has convolutions on its shortcuts"),
        ("resnext29_8x64d_cifar", "no published weights are known"),
    ],
)
def test_networks_that_compute_otherwise_than_published_ones_say_why(name, words):
    with pytest.raises(UserError, match=words):
        load_pretrained(name, "weights.pth")


def test_weights_that_must_be_downloaded_first_are_named():
    words = r"must be downloaded first, for example https://.*resnet20-12fca82f\.th"
    with pytest.raises(UserError, match=words):
        load_published("resnet20_cifar", None, tuple("abc"))


def test_an_address_is_not_taken_for_a_file():
    source = "https://github.com/a/b/raw/master/resnet20-12fca82f.th"
    with pytest.raises(UserError, match="download it and give the path of the file"):
        load_pretrained("resnet20_cifar", source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir=DIR is missing"),
        (["--model=resnet50"], "give either --dataset=NAME or --image_dir=DIR"),
        (["--model=resnet50", "--workdir=runs/x"], "--workdir cannot be combined with --model"),
        (["--workdir=runs/x", "--weights=x.pth"], "--weights cannot be combined with --workdir"),
        (["--model=resnet50", "--image_dir=tests", "--split=test"], "--split requires --dataset"),
        (["--model=se_preact*", "--image_dir=tests"], "the catalogue has no weights for a model"),
        (["--model=resnet51", "--image_dir=x"], 'no model "resnet51"'),
        (["--model=resnet50", "--image_dir=/nowhere"], "there is no folder /nowhere"),
        (["--model=resnet50", "--weights=x.pth", "--dataset=none"], "there is no file x.pth"),
        (["--model=resnet20_cifar", "--dataset=none"], "must be downloaded first, for example"),
        (["--model=resnet50", "--weights=timm/resnetaa50.x", "--dataset=none"], "is for timm's"),
        (["--model=se_resnet*", "--weights=x.pth", "--image_dir=tests"], "--weights belong to one"),
        (["--workdir=runs/x", "--mean=0,0,0"], "--mean cannot be combined with --workdir"),
        (["--model=resnet50", "--image_dir=tests", "--mean=1,2"], "must be three numbers from 0"),
        (["--model=resnet50", "--image_dir=tests", "--std=0,1,1"], "--std=0,1,1 must be three"),
    ],
)
def test_unusable_options_of_the_evaluation_are_reported_in_one_sentence(
    run_command, arguments, words
):
    process = run_command("se_flax.evaluate", *arguments)
    assert process.returncode == 2
    assert words in process.stderr
    assert process.stderr.count("\n") == 1


def test_weights_for_small_images_are_noted_on_another_data_set_than_their_own():
    of_svhn = "downloads/seresnet20_svhn-0323-d77df31c.pth"
    for other in ("cifar10", "cifar10_corrupted/fog_1", "mnist"):
        with pytest.warns(Note, match=f"was trained on svhn_cropped, and .* of {other};"):
            warn_of_other_dataset("se_resnet20_cifar", of_svhn, other)
    of_cifar10 = "resnet20-12fca82f.th"
    with pytest.warns(Note, match="was trained on cifar10, and the images are those of cifar100;"):
        warn_of_other_dataset("resnet20_cifar", of_cifar10, "cifar100")
    with silence():
        warn_of_other_dataset("se_resnet20_cifar", of_svhn, "svhn_cropped")
        for same in ("cifar10", "cifar10_1/v6", "cifar10_corrupted/fog_1"):
            warn_of_other_dataset("resnet20_cifar", of_cifar10, same)
        warn_of_other_dataset("resnet20_cifar", of_cifar10, None)  # images in folders
        warn_of_other_dataset("resnet20_cifar", "mine.pth", "svhn_cropped")
        warn_of_other_dataset("resnet18", None, "imagenette")
