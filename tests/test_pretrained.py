import pytest

from se_flax import list_models, load_pretrained
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.pretrained.catalogue import catalogue, find_weights
from se_flax.pretrained.layouts import layouts_of


def test_every_entry_of_the_catalogue_is_of_a_network_whose_weights_are_read():
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
    assert len(with_results) == 2 * 8 + 1 + 2 * 2 + 8  # table 2, SENet-154, CIFAR, EfficientNet


def test_weights_of_another_network_are_refused_before_they_are_fetched():
    with pytest.raises(UserError, match='are weights of "se_resnet50_caffe", not of "se_resnet50"'):
        load_pretrained("se_resnet50", "timm/legacy_seresnet50.in1k")


def test_the_catalogue_is_listed(run_python):
    process = run_python("-m", "se_flax.pretrained", "se_resnet50*")
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if "timm/" in line]
    assert [line.split()[0] for line in lines] == ["se_resnet50_caffe", "se_resnet50"]
    assert run_python("-m", "se_flax.pretrained", "nothing*").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir=DIR is missing"),
        (["--model=resnet50"], "give either --dataset=NAME or --image_dir=DIR"),
        (["--model=resnet50", "--workdir=runs/x"], "exclude each other"),
        (["--model=resnet51", "--image_dir=x"], 'no model "resnet51"'),
        (["--model=resnet50", "--image_dir=/nowhere"], "there is no folder /nowhere"),
        (["--model=se_resnet*", "--weights=x.pth", "--image_dir=tests"], "--weights are of one"),
    ],
)
def test_unusable_options_of_the_evaluation_are_one_sentence(run_python, arguments, words):
    process = run_python("-m", "se_flax.evaluate", *arguments)
    assert process.returncode == 2
    assert words in process.stderr
    assert process.stderr.count("\n") == 1
