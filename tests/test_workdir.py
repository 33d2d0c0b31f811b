import json

import pytest

from se_flax.errors import UserError
from se_flax.workdir import (
    changed_fields,
    check_same_run,
    config_as_json,
    has_checkpoint,
    read_config,
    write_config,
)
from tests.tiny_run import get_config


@pytest.fixture
def begun(tmp_path):
    """The workdir of a run with a checkpoint."""
    write_config(tmp_path, get_config())
    (tmp_path / "checkpoints" / "11").mkdir(parents=True)
    return tmp_path


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = get_config()
    write_config(tmp_path, config)
    assert config_as_json(read_config(tmp_path)) == config_as_json(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not the workdir of a run: it has no config.json"),
        ("{", r"config\.json is damaged: Expecting"),
        ("[3]", r"config\.json is damaged: it holds no fields"),
    ],
)
def test_a_file_that_holds_no_config_is_reported(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


def test_a_misspelt_workdir_is_reported_with_the_nearest(tmp_path):
    (tmp_path / "quickstart").mkdir()
    write_config(tmp_path / "quickstart", get_config())
    with pytest.raises(UserError, match=r'no such folder \(did you mean ".*/quickstart"\?\)$'):
        read_config(tmp_path / "quikstart")


def test_a_checkpoint_is_a_folder_named_by_a_step(tmp_path):
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir(parents=True)
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "7").mkdir()
    assert has_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.name", "resnet20_cifar"),
        ("model.overrides.reduction", 4),
        ("batch_size", 64),
        ("optimizer.name", "adamw"),
        ("seed", 1),
        ("num_seeds", 2),
    ],
)
def test_fields_that_a_checkpoint_depends_on_may_not_change(begun, field, value):
    config = get_config()
    config.update_from_flattened_dict({field: value})
    shown = "model.overrides" if field.startswith("model.overrides") else field
    with pytest.raises(
        UserError, match=rf"holds a run with config\.{shown}=.*, not .*; give another --workdir"
    ):
        check_same_run(begun, config)


def test_other_fields_may_change_and_are_listed(begun):
    config = get_config()
    config.num_epochs = 7
    config.optimizer.learning_rate = 0.05
    before = json.loads((begun / "config.json").read_text())["optimizer"]["learning_rate"]
    check_same_run(begun, config)
    assert sorted(changed_fields(begun, config)) == [
        "config.num_epochs is 7, before 6",
        f"config.optimizer.learning_rate is 0.05, before {before}",
    ]


def test_before_the_first_checkpoint_every_field_may_change(tmp_path):
    write_config(tmp_path, get_config())
    config = get_config()
    config.seed = 5
    check_same_run(tmp_path, config)
    assert changed_fields(tmp_path, config) == []
