import importlib

import jax
import numpy as np
import pytest

from se_flax.config import build_model, check_config, default_config, leaves
from se_flax.errors import UserError
from se_flax.optim import learning_rate_schedule, peak_learning_rate
from se_flax.pretrained.catalogue import find_weights
from se_flax.program import with_preparation
from tests.conftest import ROOT

RECIPES = ["resnet_cifar10", "se_resnet_cifar10", "resnet_cifar100", "se_resnet_cifar100"]
DEPTHS = ["18", "34", "50", "101", "152"]
STREAMED = {
    "resnet_imagenet": DEPTHS,
    "se_resnet_imagenet": DEPTHS,
    "resnext_imagenet": ["50", "101"],
    "se_resnext_imagenet": ["50", "101"],
    "senet154_imagenet": [],
    "efficientnet_imagenet": [f"b{i}" for i in range(8)],
    "efficientnet_v2_imagenet": ["s", "m", "l"],
    "mobilenet_v3_imagenet": ["large", "small"],
    "resnet_tiny_imagenet": ["18", "34", "50"],
    "se_resnet_tiny_imagenet": ["18", "34", "50"],
}
RSB = {"rsb_imagenet": ["a2", "a3", "a2,resnet50", "a3,resnet50", "a3,se_resnet50"]}
DETECTORS = ["faster_rcnn_coco", "faster_rcnn_quickstart"]
# The network for each argument.
OTHERS = {
    f"{prefix}{name}_cifar": {(): f"{prefix}{model}", ("100",): f"{prefix}{model}"}
    for prefix in ("", "se_")
    for name, model in (
        ("resnext", "resnext29_8x64d_cifar"),
        ("inception", "inception_v3_cifar"),
        ("small_cnn", "small_cnn"),
    )
}
OTHERS["se_variants_cnn3"] = {(): "se_cnn3", ("default",): "cnn3", ("bump",): "se_cnn3"}
OTHERS["se_variants_resnet18"] = {
    (): "se_resnet18",
    ("default,svhn",): "resnet18",
    ("slow_squeeze,cifar100",): "se_resnet18",
}


# Values that no config uses, for fields that every recipe must set.
NO_RECIPE = {
    "model.name": "nothing",
    "dataset.name": "nothing",
    "augment.crop_padding": 99,
    "augment.horizontal_flip": None,
    "batch_size": 99,
    "num_epochs": 9999,
    "optimizer.name": "nothing",
    "optimizer.learning_rate": 99.0,
    "optimizer.momentum": 0.99,
    "optimizer.weight_decay": 99.0,
    "schedule.name": "nothing",
    "schedule.warmup_epochs": 99.0,
}


def load(name, *argument):
    return importlib.import_module(f"configs.{name}").get_config(*argument)


def rate_of(config, steps_per_epoch):
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    return learning_rate_schedule(config.schedule, peak, config.num_epochs, steps_per_epoch)


def test_the_quickstart_is_valid_and_needs_no_download():
    config = load("quickstart")
    check_config(config)
    assert config.dataset.name == "digits"
    assert not config.augment.horizontal_flip


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid_and_by_default_110_layers_deep(name):
    config = load(name)
    check_config(config)
    network, dataset = name.rsplit("_", 1)
    assert config.model.name == f"{network}110_cifar"
    assert config.dataset.name == dataset
    assert (config.batch_size, config.num_epochs) == (128, 200)


@pytest.mark.parametrize("depth", ["20", "32", "44", "56", "110", "164"])
def test_a_recipe_takes_the_depth_as_its_argument(depth):
    config = load("se_resnet_cifar100", depth)
    check_config(config)
    assert config.model.name == f"se_resnet{depth}_cifar"


def test_an_unknown_depth_is_refused_with_a_list_of_the_known_ones():
    known = r'no CIFAR ResNet of depth "21".*; known are 20, 32, 44, 56, 110, 164$'
    with pytest.raises(ValueError, match=known):
        load("resnet_cifar10", "21")


def test_every_config_is_tested():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert files == {"quickstart", "finetune", *DETECTORS, *RECIPES, *STREAMED, *RSB, *OTHERS}


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, given) for name, known in OTHERS.items() for given in known]
)
def test_other_configs_for_small_images_are_valid_for_every_argument(name, arguments):
    config = load(name, *arguments)
    check_config(config)
    assert config.model.name == OTHERS[name][arguments]
    argument = "".join(arguments)
    if name.endswith("_cifar"):
        assert config.dataset.name == f"cifar{argument or 10}"
    else:
        variant, _, dataset = argument.partition(",")
        assert config.dataset.name.removesuffix("_cropped") == (dataset or "cifar10")
        if config.model.name.startswith("se_"):
            assert config.model.overrides.variant == (variant or "standard")
    with pytest.raises(ValueError, match=r'there is no .* "nonesuch".*; known are \w+, '):
        load(name, "nonesuch")


@pytest.mark.parametrize("network", ["se_resnet50_caffe", "efficientnet_b1", "se_resnet50"])
def test_fine_tuning_takes_weights_and_image_preparation_from_the_catalogue(network):
    config = load("finetune", network)
    check_config(config)
    config = with_preparation(config)
    weights = find_weights(network)
    assert config.init_from == weights.source
    assert config.dataset.image_size == weights.input_size
    assert config.dataset.crop_pct == weights.crop_pct
    assert config.dataset.interpolation == weights.interpolation


def test_fine_tuning_a_network_without_listed_weights_needs_init_from():
    config = load("finetune", "resnet34")
    check_config(config)
    assert config.init_from == ""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (name, arguments)
        for name, known in STREAMED.items()
        for arguments in [(), *((argument,) for argument in known)]
    ],
)
def test_recipes_for_streamed_data_are_valid_for_every_argument(name, arguments):
    config = load(name, *arguments)
    check_config(config)
    network, _, rest = name.partition("_tiny_imagenet" if "tiny" in name else "_imagenet")
    assert not rest
    assert config.model.name.startswith(network)
    assert "".join(arguments) in config.model.name
    assert config.dataset.name == ("tiny_imagenet" if "tiny" in name else "imagenet2012")
    assert config.augment.random_resized_crop


@pytest.mark.parametrize("argument", RSB["rsb_imagenet"])
def test_procedures_for_resnets_are_valid_for_every_argument(argument):
    config = load("rsb_imagenet", argument)
    check_config(config)
    procedure, _, network = argument.partition(",")
    assert config.model.name == (network or "se_resnet50")
    assert config.dataset.train_size == {"a2": 224, "a3": 160}[procedure]
    # Table 2 of arXiv:2110.00476: 188,000 and 63,000 forward passes.
    steps = config.num_epochs * round(1_281_167 / config.batch_size)
    assert round(steps / 1000) == {"a2": 188, "a3": 63}[procedure]
    rate = rate_of(config, 626)
    peak = {"a2": 5e-3, "a3": 8e-3}[procedure]
    assert float(rate(0)) == pytest.approx(1e-4, rel=1e-4)
    assert float(rate(5 * 626)) == pytest.approx(peak)
    half_way = (config.num_epochs + 5) // 2
    assert float(rate(half_way * 626)) == pytest.approx(peak / 2, rel=0.02)
    assert float(rate(config.num_epochs * 626 - 1)) < 1e-6


@pytest.mark.parametrize("argument", ["a1", "a2,resnet18"])
def test_an_unknown_procedure_or_network_is_reported(argument):
    with pytest.raises(UserError, match=r"there is no .*; known are \w+, "):
        load("rsb_imagenet", argument)


def test_detectors_with_se_start_from_the_published_weights_of_their_trunk():
    config = load("faster_rcnn_coco", "se_resnet101")
    check_config(config)
    assert config.init_from == "timm/legacy_seresnet101.in1k"
    model = build_model(config, num_classes=81)
    assert (model.train_proposals_before, model.train_proposals_after) == (2000, 1000)
    with pytest.raises(UserError, match=r"give weights with --config.init_from=FILE"):
        check_config(load("faster_rcnn_coco", "resnet101"))


def test_the_detectors_have_the_schedule_of_the_paper():
    config = load("faster_rcnn_coco", "resnet50")
    steps = round(117_266 / config.batch_size)
    rate = rate_of(config, steps)
    iterations = (0, 500, 119_999, 120_000, 160_000, 179_999)
    expected = (0.02 / 3, 0.02, 0.02, 0.002, 2e-4, 2e-4)
    assert [float(rate(step)) for step in iterations] == pytest.approx(expected)
    assert steps * config.num_epochs >= 180_000


@pytest.mark.parametrize("name", sorted(STREAMED.keys() - {"senet154_imagenet"}))
def test_an_unknown_argument_of_a_recipe_is_reported(name):
    with pytest.raises(ValueError, match=r'there is no .* "51".*; known are \w+, '):
        load(name, "51")


@pytest.mark.parametrize(
    ("name", "argument", "epoch", "rate"),
    [
        ("se_resnet_imagenet", "50", 0, 0.6),
        ("se_resnet_imagenet", "50", 31, 0.06),
        ("se_resnet_imagenet", "50", 91, 6e-4),
        ("efficientnet_imagenet", "b0", 2.5, 0.128),
        ("efficientnet_imagenet", "b0", 5, 0.256 * 0.97**2),
        ("efficientnet_imagenet", "b0", 349, 0.256 * 0.97**145),
        ("efficientnet_v2_imagenet", "m", 2.5, 0.128),
        ("efficientnet_v2_imagenet", "l", 349, 0.256 * 0.97**145),
        ("mobilenet_v3_imagenet", "large", 1.99, 0.064),
        ("mobilenet_v3_imagenet", "small", 2, 0.064 * 0.973),
        ("mobilenet_v3_imagenet", "small", 599, 0.064 * 0.973**299),
        ("resnet_tiny_imagenet", "18", 5, 0.1),
    ],
)
def test_recipes_have_their_published_learning_rates(name, argument, epoch, rate):
    config = load(name, argument)
    whole = rate_of(config, 100)
    assert float(whole(round(100 * epoch))) == pytest.approx(rate, rel=1e-4)
    config.batch_size //= 4
    quarter = rate_of(config, 400)
    assert float(quarter(round(400 * epoch))) == pytest.approx(rate / 4, rel=1e-4)


@pytest.mark.parametrize(("network", "dropout"), [("b0", 0.2), ("b3", 0.3), ("b7", 0.5)])
def test_efficientnets_have_the_published_dropout(network, dropout):
    model = build_model(load("efficientnet_imagenet", network), num_classes=1000)
    assert (model.dropout, model.stochastic_depth) == (dropout, 0.2)


@pytest.mark.parametrize(
    "name", ["quickstart", "finetune", *DETECTORS, *RECIPES, *STREAMED, *RSB, *OTHERS]
)
def test_a_recipe_does_not_rely_on_defaults(name, monkeypatch):
    page = importlib.import_module(f"configs.{name}")
    if not hasattr(page, "default_config"):  # the plain network of a pair
        page = importlib.import_module(f"configs.se_{name}")
    expected = load(name).to_dict()

    def other_defaults():
        config = default_config().unlock()
        with config.ignore_type():
            config.update_from_flattened_dict(NO_RECIPE)
        return config

    monkeypatch.setattr(page, "default_config", other_defaults)
    assert load(name).to_dict() == expected


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, "56") for name in ("resnet_cifar10", "resnet_cifar100")),
        *((name, "50") for name in ("resnet_imagenet", "resnext_imagenet")),
        ("resnet_tiny_imagenet", "50"),
        *((f"{name}_cifar", "100") for name in ("resnext", "inception", "small_cnn")),
    ],
)
def test_a_plain_network_and_its_se_network_differ_only_in_the_model(name, argument):
    plain, with_se = load(name, argument), load(f"se_{name}", argument)
    assert load(name).dataset == load(f"se_{name}").dataset
    assert with_se.model.name == f"se_{plain.model.name}"
    with_se.model = plain.model
    assert plain.to_dict() == with_se.to_dict()


@pytest.mark.parametrize(
    ("name", "other", "fields"),
    [
        (
            ("se_resnet_cifar10", "56"),
            ("se_resnet_cifar100", "56"),
            {"dataset.name", "optimizer.weight_decay"},
        ),
        (
            ("se_resnet_cifar10", "164"),
            ("se_resnet_cifar100", "164"),
            {"dataset.name", "optimizer.weight_decay"},
        ),
        (
            ("se_resnet_cifar100", "20"),
            ("se_resnext_cifar", "100"),
            {"model.name", "model.overrides", "num_epochs", "schedule.milestones"},
        ),
        (
            ("se_resnet_cifar100", "20"),
            ("se_inception_cifar", "100"),
            {"model.name", "model.overrides", "label_smoothing"},
        ),
        (("se_resnet_imagenet", "50"), ("se_resnext_imagenet", "50"), {"model.name"}),
        (
            ("se_resnet_imagenet", "50"),
            ("senet154_imagenet",),
            {
                *("model.name", "batch_size", "label_smoothing"),
                *("optimizer.learning_rate", "optimizer.base_batch_size"),
            },
        ),
        (("rsb_imagenet", "a2"), ("rsb_imagenet", "a2,resnet50"), {"model.name"}),
        (
            ("rsb_imagenet", "a2"),
            ("rsb_imagenet", "a3"),
            {
                *("model.overrides", "dataset.train_size", "augment.magnitude", "augment.repeats"),
                *("optimizer.learning_rate", "schedule.warmup_factor", "num_epochs"),
            },
        ),
        (
            ("se_variants_cnn3", "bump"),
            ("se_variants_resnet18", "bump,cifar10"),
            {"model.name", "model.overrides", "batch_size"},
        ),
    ],
)
def test_related_recipes_differ_only_where_their_docstrings_say(name, other, fields):
    ours, theirs = dict(leaves(load(*name))), dict(leaves(load(*other)))
    assert {field for field, value in ours.items() if value != theirs[field]} == fields


@pytest.mark.parametrize("se", [True, False])
@pytest.mark.parametrize("depth", ["110", "164"])
@pytest.mark.parametrize("name", ["se_resnet_cifar10", "se_resnet_cifar100"])
def test_preactivation_changes_only_the_network_of_a_recipe(name, depth, se):
    page = importlib.import_module(f"configs.{name}")
    config = page.get_config(depth, se=se, preactivation=True)
    check_config(config)
    assert config.model.name == f"{'se_' if se else ''}preact_resnet{depth}_cifar"
    usual = page.get_config(depth, se=se)
    config.model = usual.model
    assert config.to_dict() == usual.to_dict()


@pytest.mark.parametrize("variant", ["default", "bump"])
def test_the_last_stage_of_the_variants_resnet18_has_several_positions(variant):
    model = build_model(load("se_variants_resnet18", variant), num_classes=10)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    maps = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, features=True)[0],
        images,
    )
    assert list(maps.values())[-1].shape == (1, 4, 4, 512)
