import importlib
import json

import pytest

from se_flax.config import build_model, check_config, check_devices, default_config
from se_flax.errors import UserError
from se_flax.optim import learning_rate_schedule, peak_learning_rate
from se_flax.pretrained.catalogue import find_weights
from se_flax.workdir import read_config, write_config
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
    "resnet_tiny_imagenet": ["18", "34", "50"],
    "se_resnet_tiny_imagenet": ["18", "34", "50"],
}
# Arguments, and the network with each.
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


# Fields that version 0.1 named otherwise, with its names and some values.
EARLIER = {
    "dataset": {"crop_pct": ("eval_crop", 0.0)},
    "augment": {
        "horizontal_flip": ("mirror", False),
        "num_ops": ("randaugment_layers", 3),
        "magnitude": ("randaugment_magnitude", 7.0),
    },
    "optimizer": {
        "base_batch_size": ("batch_size_reference", 256),
        "lr_multipliers": ("rates", [["*", 0.5]]),
    },
    "schedule": {
        "warmup_epochs": ("warmup", 0.05),
        "warmup_factor": ("warmup_start", 0.2),
        "milestones": ("drop_at", [0.5, 0.75]),
        "gamma": ("drop_factor", 0.2),
    },
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


def test_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match='no CIFAR ResNet of depth "21"'):
        load("resnet_cifar10", "21")


def test_every_config_is_tested():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    shared = {name for name in files if name.endswith("_recipe")}
    assert files - shared == {"quickstart", "finetune", *RECIPES, *STREAMED, *OTHERS}


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
    with pytest.raises(ValueError, match=r'there is no .*"?nonesuch"?'):
        load(name, "nonesuch")


@pytest.mark.parametrize("network", ["se_resnet50_caffe", "efficientnet_b1", "se_resnet50"])
def test_fine_tuning_takes_weights_and_images_as_the_catalogue_has_them(network):
    config = load("finetune", network)
    check_config(config)
    weights = find_weights(network)
    assert config.init_from == weights.source
    assert config.dataset.image_size == weights.input_size
    assert config.dataset.crop_pct == weights.crop
    assert config.dataset.interpolation == weights.interpolation


def test_fine_tuning_a_network_without_listed_weights_needs_some_named():
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


@pytest.mark.parametrize("name", sorted(STREAMED.keys() - {"senet154_imagenet"}))
def test_an_argument_that_a_recipe_does_not_know_is_told(name):
    with pytest.raises(ValueError, match=r'one of .*, not "51"'):
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
def test_efficientnets_drop_out_as_published(network, dropout):
    model = build_model(load("efficientnet_imagenet", network), num_classes=1000)
    assert (model.dropout, model.stochastic_depth) == (dropout, 0.2)


@pytest.mark.parametrize("data", ["cifar10", "imagenet", "tiny_imagenet"])
def test_only_se_networks_differ_from_plain_ones_by_their_model(data):
    depth = "56" if data == "cifar10" else "50"
    plain, with_se = load(f"resnet_{data}", depth), load(f"se_resnet_{data}", depth)
    assert with_se.model.name == f"se_{plain.model.name}"
    with_se.model = plain.model
    assert plain.to_dict() == with_se.to_dict()


def test_a_misspelt_field_in_a_config_file_is_refused():
    config = default_config()
    with pytest.raises(AttributeError, match="num_epochs"):
        config.num_epoch = 3


def test_a_misspelt_field_in_a_config_of_ones_own_is_told_with_the_nearest():
    config = default_config()
    with config.unlocked():
        config.optimizer.learning_rat = 0.1
    with pytest.raises(UserError, match=r'field "optimizer.learning_rat".*learning_rate"'):
        check_config(config)


def test_a_missing_field_is_told():
    config = default_config()
    with config.unlocked():
        del config.schedule.warmup_epochs
    with pytest.raises(UserError, match=r'lacks the field "schedule.warmup_epochs"'):
        check_config(config)


def test_a_config_of_an_earlier_version_gets_the_fields_it_lacks(tmp_path):
    write_config(tmp_path, default_config())
    path = tmp_path / "config.json"
    earlier = json.loads(path.read_text())
    complete = json.loads(path.read_text())
    for field in ("name", "base_batch_size", "decay", "epsilon"):
        del earlier["optimizer"][field]
    earlier["num_epochs"] = complete["num_epochs"] = 7
    path.write_text(json.dumps(earlier))
    config = read_config(tmp_path)
    check_config(config)
    assert json.loads(config.to_json_best_effort()) == complete


def test_a_config_of_version_0_1_keeps_its_meaning(tmp_path):
    def written(**fields):
        values = json.loads(default_config().to_json_best_effort())
        for section, names in EARLIER.items():
            for name, (earlier, value) in names.items():
                del values[section][name]
                values[section][earlier] = value
        values["num_epochs"] = 40
        values["augment"]["random_resized_crop"] = True  # had no effect on images in memory
        values["dataset"].update(fields)
        (tmp_path / "config.json").write_text(json.dumps(values))
        config = read_config(tmp_path)
        check_config(config, names_dataset=False)
        return config

    config = written()
    assert (config.schedule.warmup_epochs, config.schedule.milestones) == (2.0, [20.0, 30.0])
    assert config.optimizer.lr_multipliers == [["*", 0.5]]
    assert not config.augment.horizontal_flip
    assert config.augment.magnitude == 7.0
    assert (config.augment.crop_padding, config.augment.random_resized_crop) == (4, False)
    config = written(image_dir="somewhere")
    assert (config.augment.crop_padding, config.augment.random_resized_crop) == (0, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset.image_size", 64),
        ("dataset.crop_pct", 0.9),
        ("dataset.interpolation", "bicubic"),
        ("dataset.workers", 2),
        ("augment.random_resized_crop", True),
    ],
)
def test_a_field_without_effect_on_images_held_in_memory_is_refused(field, value):
    config = default_config()
    config.augment.crop_padding = 0
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=rf"config.{field}=.* has no effect on cifar10"):
        check_config(config)
    config.dataset.name = "imagenette"
    check_config(config)


def test_two_ways_to_crop_are_refused():
    config = default_config()
    config.dataset.name = "imagenette"
    config.augment.random_resized_crop = True
    with pytest.raises(UserError, match="two ways to crop; set crop_padding to 0"):
        check_config(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.name", "se_resnet_20", r'no model "se_resnet_20".*did you mean'),
        ("dataset.name", "cifar_10", r'no data set "cifar_10".*"cifar10"'),
        ("dataset.name", "tiny_imagenett", r'no data set "tiny_imagenett".*"tiny_imagenet"'),
        ("dataset.image_size", -1, "config.dataset.image_size"),
        ("augment.crop_area", (0.5, 0.25), "the smallest and the largest share"),
        ("augment.policy", "autoaugment", '"", "randaugment", "autoaugment_imagenet"'),
        ("batch_size", 0, "config.batch_size must be a whole number from 1 to 1048576, not 0"),
        ("num_epochs", -1, "config.num_epochs"),
        ("seed", -1, "config.seed"),
        ("dtype", "float16", '"float32" or "bfloat16", not \'float16\''),
        ("validation_fraction", 1.0, "from 0 to below 1"),
        ("label_smoothing", 1.0, "from 0 to below 1"),
        ("ema_decay", -0.1, "config.ema_decay"),
        ("optimizer.learning_rate", -0.1, "config.optimizer.learning_rate"),
        ("optimizer.learning_rate", float("nan"), "config.optimizer.learning_rate"),
        ("optimizer.momentum", 1.5, "config.optimizer.momentum"),
        ("optimizer.name", "lars", '"sgd", "rmsprop", "adadelta", "adam" or "adamw"'),
        ("optimizer.base_batch_size", -256, "a whole number from 0 to"),
        ("optimizer.decay", 1.0, "from 0 to below 1"),
        ("optimizer.epsilon", -1e-3, "config.optimizer.epsilon"),
        ("schedule.name", "linear", '"step", "cosine", "constant" or "exponential"'),
        ("schedule.decay_rate", 0.0, "above 0 and at most 1"),
        ("schedule.decay_epochs", 0.0, "above 0"),
        ("schedule.milestones", (150, 100), "increasing numbers of epochs"),
        ("schedule.warmup_epochs", -1.0, "a number of at least 0"),
        ("steps_per_dispatch", -1, "config.steps_per_dispatch"),
    ],
)
def test_a_value_out_of_range_is_told_with_what_was_expected(field, value, message):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message) as error:
        check_config(config)
    assert "\n" not in str(error.value)


def test_an_override_that_the_model_does_not_know_is_told():
    config = default_config()
    config.model.overrides.reductoin = 4
    with pytest.raises(UserError, match=r'no field "reductoin"'):
        check_config(config)


def test_an_override_that_cannot_be_written_to_a_file_is_refused():
    config = default_config()
    config.model.overrides.conv = print
    with pytest.raises(UserError, match=r"overrides.conv must be a plain value"):
        check_config(config)


def test_the_batch_must_be_shared_evenly():
    config = default_config()
    config.batch_size = 100
    check_devices(config, 4)
    with pytest.raises(UserError, match="multiple of 8, such as 96"):
        check_devices(config, 8)


def test_build_model_follows_the_config():
    config = default_config()
    config.model.overrides.reduction = 4
    config.dtype = "bfloat16"
    model = build_model(config, 7, sync_axis="batch")
    assert (model.num_classes, model.sync_axis) == (7, "batch")
    assert model.dtype == "bfloat16"
    assert model.se.keywords["reduction"] == 4
