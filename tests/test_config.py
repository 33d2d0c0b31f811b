import json

import pytest

from se_flax.config import build_model, check_config, default_config
from se_flax.errors import UserError
from se_flax.parallel import check_devices
from se_flax.workdir import read_config, write_config

# Fields that version 0.1 named differently: their old names and some values.
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


def test_a_misspelt_field_in_a_config_file_is_refused():
    config = default_config()
    with pytest.raises(AttributeError, match="num_epochs"):
        config.num_epoch = 3


def test_a_misspelt_field_in_a_users_config_is_reported_with_the_nearest():
    config = default_config()
    with config.unlocked():
        config.optimizer.learning_rat = 0.1
    with pytest.raises(UserError, match=r'field "optimizer.learning_rat".*learning_rate"'):
        check_config(config)


def test_a_missing_field_is_reported():
    config = default_config()
    with config.unlocked():
        del config.schedule.warmup_epochs
    with pytest.raises(UserError, match=r'lacks the field "schedule.warmup_epochs"'):
        check_config(config)


def test_a_config_of_an_earlier_version_gets_its_missing_fields(tmp_path):
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
        values["freeze_body"] = True
        del values["freeze_backbone"]
        values["model"]["overrides"]["squeeze"] = "maximum"
        values["augment"]["random_resized_crop"] = True  # 0.1 ignored it for images in memory
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
    assert config.freeze_backbone
    assert config.model.overrides.squeeze == "max"
    assert (config.augment.crop_padding, config.augment.random_resized_crop) == (4, False)
    config = written(image_dir="somewhere")
    assert (config.augment.crop_padding, config.augment.random_resized_crop) == (0, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset.image_size", 64),
        ("dataset.train_size", 48),
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


def test_a_spread_of_magnitudes_needs_the_policy_that_draws_them():
    config = default_config()
    config.augment.magnitude_std = 0.5
    for policy in ("", "randaugment", "autoaugment_imagenet"):
        config.augment.policy = policy
        with pytest.raises(UserError, match=rf'no effect on config.augment.policy="{policy}"'):
            check_config(config)
    config.augment.policy = "randaugment_timm"
    check_config(config)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({"augment.erasing_form": "torchvision"}, {"augment.random_erasing": 0.1}),
        ({"augment.mix_by": "batch"}, {"augment.cutmix": 1.0}),
    ],
)
def test_an_option_of_an_augmentation_that_is_not_used_is_refused(options, needed):
    config = default_config()
    config.dataset.name = "imagenette"
    config.augment.crop_padding, config.augment.random_resized_crop = 0, True
    config.update_from_flattened_dict(options)
    with pytest.raises(UserError, match=rf"config.{next(iter(options))}=.* has no effect"):
        check_config(config)
    config.update_from_flattened_dict(needed)
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
        (
            "augment.policy",
            "autoaugment",
            '"", "randaugment", "randaugment_timm", "autoaugment_imagenet"',
        ),
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
        (
            "optimizer.name",
            "lars",
            '"sgd", "rmsprop", "rmsprop_torch", "adadelta", "adam", "adamw" or "lamb"',
        ),
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
def test_a_value_out_of_range_is_reported_with_the_expected_range(field, value, message):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message) as error:
        check_config(config)
    assert "\n" not in str(error.value)


def test_an_override_unknown_to_the_model_is_reported():
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
