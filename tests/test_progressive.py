"""Progressive learning: runs whose images grow from stage to stage."""

import numpy as np
import pytest

import se_flax.classification
from se_flax.config import check_config, default_config
from se_flax.data.from_config import dataset_of
from se_flax.data.images import RandomResizedCrop
from se_flax.data.preview import preview_batch
from se_flax.data.stages import first_step, growing, stage_at
from se_flax.data.streaming import StreamedDataset
from se_flax.errors import UserError
from se_flax.plan import Plan
from se_flax.program import dataset_of_run, with_preparation
from se_flax.runtime.time_left import TimeLeft
from se_flax.stages import configs_of_stages
from se_flax.train import train
from tests import tiny_run
from tests.data.test_streaming import SMALL, Noise, Numbers
from tests.data.test_streaming import train as batches_of
from tests.runs import (
    assert_same_result,
    finish,
    kill,
    random_generator,
    start,
    wait_for_row,
)
from tests.test_configs import load
from tests.tiny_run import stream_options

# The stages of 8 steps.
STARTS = (0, 3, 6)


@pytest.fixture
def config(image_dir):
    """A run of 8 steps in three stages, with images of 12, 16 and 20 pixels."""
    config = tiny_run.get_config()
    tiny_run.stream(config, image_dir)
    config.batch_size, config.num_epochs = 10, 2
    config.dataset.train_size, config.dataset.image_size = 20, 24
    config.augment.mixup = 0.4
    config.model.overrides.dropout = 0.5
    config.progressive.update({"stages": 3, "train_size": 12, "dropout": 0.1})
    config.log_every_steps = 1
    return config


@pytest.mark.parametrize(("total", "count"), [(10, 3), (350, 4), (7, 7), (3, 5), (1, 1)])
def test_stages_are_equal_parts_of_a_run(total, count):
    stages = [stage_at(step, total, count) for step in range(total)]
    assert stages == sorted(stages)
    lengths = np.bincount(stages, minlength=count)
    assert max(lengths) - min(lengths) <= 1
    for stage in range(count):
        assert first_step(stage, total, count) == sum(lengths[:stage])


def test_values_grow_linearly():
    assert growing(128, 300, 4) == pytest.approx([128, 185.33333, 242.66667, 300])
    assert growing(128, 300, 1) == [300]


# Table 6 of arXiv:2104.00298.
@pytest.mark.parametrize(
    ("size", "train_sizes", "magnitudes", "mixups", "dropouts"),
    [
        ("s", [128, 185, 243, 300], (5, 15), (0, 0), (0.1, 0.3)),
        ("m", [128, 212, 296, 380], (5, 20), (0, 0.2), (0.1, 0.4)),
        ("l", [128, 212, 296, 380], (5, 25), (0, 0.5), (0.1, 0.5)),
    ],
)
def test_efficientnets_v2_learn_in_the_published_stages(
    size, train_sizes, magnitudes, mixups, dropouts, image_dir
):
    config = load("efficientnet_v2_imagenet", size)
    check_config(config)
    stages = configs_of_stages(config)
    for name, ends, of_stage in (
        ("magnitude", magnitudes, lambda stage: stage.augment.magnitude),
        ("mixup", mixups, lambda stage: stage.augment.mixup),
        ("dropout", dropouts, lambda stage: stage.model.overrides.dropout),
    ):
        assert [of_stage(stage) for stage in stages] == pytest.approx(np.linspace(*ends, 4)), name
    config.dataset.image_dir = str(image_dir)
    dataset = dataset_of(config)
    assert list(dataset.train_sizes) == train_sizes
    assert dataset.image_shape[0] == {"s": 384, "m": 480, "l": 480}[size]
    assert {crop.area for crop in dataset.earlier_crops} == {(0.05, 1.0)}


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, 64])
def test_dispatches_never_pass_the_end_of_a_stage(steps_per_dispatch):
    plan = Plan(2, steps_per_epoch=4, steps_per_dispatch=steps_per_dispatch, num_stages=3)
    starts, step = [], 0
    while step < plan.total_steps:
        starts.append(step)
        step += plan.num_steps(step)
    assert {*STARTS, 4} <= set(starts)
    assert [plan.stage(start) for start in STARTS] == [0, 1, 2]


def test_the_time_left_counts_the_pixels_to_come():
    plan = Plan(num_epochs=2, steps_per_epoch=5, num_stages=3)
    costs = [1.0, 4.0, 9.0]
    assert plan.steps_left(0, costs) == 4 + 3 * 4 + 3 * 9
    assert plan.steps_left(3, costs) == 1 + 3 * 4 + 3 * 9
    assert plan.steps_left(4, costs) == 3 + 3 * 9 / 4
    assert plan.steps_left(9, costs) == 1
    assert plan.steps_left(10, costs) == 0
    left = TimeLeft(10, 8, steps_left=lambda step: plan.steps_left(step, costs))
    assert left(4, 2.0) == pytest.approx((3 + 3 * 9 / 4) * 8 / 2)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_grow_with_the_stage_and_depend_only_on_the_step(workers):
    crops = {"crop": RandomResizedCrop(9), "earlier_crops": (RandomResizedCrop(5), SMALL)}
    whole = batches_of(Noise(30), 0, 10, **crops)
    sizes = [batch.images.shape[1] for batch in whole]
    assert sizes == [5] * 4 + [2] * 3 + [9] * 3
    for first in (3, 4, 5, 7):
        later = batches_of(Noise(30), first, 10, workers=workers, **crops)
        for batch, expected in zip(later, whole[first:], strict=True):
            np.testing.assert_array_equal(batch.images, expected.images)


@pytest.mark.slow
def test_each_stage_is_compiled_once_and_announced(config, tmp_path, capsys, monkeypatch):
    config.augment.policy = "randaugment"
    made = []
    make = se_flax.classification.make_train_step

    def recording(model, *arguments, **options):
        made.append(model.dropout)
        return make(model, *arguments, **options)

    monkeypatch.setattr(se_flax.classification, "make_train_step", recording)
    summary = train(config, tmp_path)
    assert summary["steps"] == 8
    assert made == pytest.approx([0.1, 0.3, 0.5])
    output = capsys.readouterr().out.splitlines()
    first = output.index("3 stages of training:")
    assert output[first + 1 : first + 4] == [
        "  from step 0: images of 12x12, magnitude 5, mixup 0, dropout 0.1",
        "  from step 3: images of 16x16, magnitude 7, mixup 0.2, dropout 0.3",
        "  from step 6: images of 20x20, magnitude 9, mixup 0.4, dropout 0.5",
    ]
    assert any(line.endswith("images of 24x24, 3 classes") for line in output[:first])


class Killed(Exception):
    pass


def killed_at(config, workdir, step):
    """Trains until the row of a step, and leaves the checkpoints before it."""

    def callback(at, values):
        if at == step:
            raise Killed

    with pytest.raises(Killed):
        train(config, workdir, callback=callback)


@pytest.mark.slow
def test_a_run_stopped_next_to_a_change_of_stage_ends_in_the_same_bits(config, tmp_path):
    config.checkpoint_every_minutes = 0.0
    train(config, tmp_path / "whole")
    for step in (3, 4, 7):  # the rows of the last step of a stage and of the first of the next
        killed_at(config, tmp_path / str(step), step)
        train(config, tmp_path / str(step))
        assert_same_result(tmp_path / str(step), tmp_path / "whole")


@pytest.mark.slow
def test_a_command_killed_around_changes_of_stage_ends_in_the_same_bits(image_dir, tmp_path):
    # 18 steps, with changes after steps 6 and 12; steps 6, 12 and 18 also have a row of evaluation.
    options = ("--config.num_epochs=3", "--config.augment.mixup=0.2", *stream_options(image_dir))
    options += ("--config.progressive.stages=3", "--config.progressive.train_size=8")
    options += ("--config.progressive.dropout=0.0", "--config.model.overrides.dropout=0.3")
    assert "step 6: images of 12x12" in finish(tmp_path / "whole", options)
    for row in (random_generator().randint(4, 9), random_generator().randint(11, 17)):
        process = start(tmp_path / "killed", options)
        wait_for_row(tmp_path / "killed", row, process)
        kill(process)
    assert "continuing from step" in finish(tmp_path / "killed", options)
    assert_same_result(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_several_seeds_grow_together_and_end_as_each_alone(config, tmp_path):
    config.num_seeds = 2
    both = train(config, tmp_path / "both")
    config.num_seeds, config.seed = 1, 1
    alone = train(config, tmp_path / "alone")
    assert both["per_seed"][1]["final"] == alone["final"]


def test_the_preview_shows_the_images_of_each_stage(config):
    for step, size in zip(STARTS, (12, 16, 20), strict=True):
        batch, _ = preview_batch(config, step, count=4, train=True)
        assert batch.images.shape == (4, size, size, 3)
        assert (batch.lam is None) == (step == 0)  # mixup starts at 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"stages": 1, "dropout": 0.2},
            r"dropout=0.2 has no effect on a run with .*; set it to 0.1",
        ),
        ({"dropout": 0.6}, r"dropout=0.6 is larger .*, 0.5; .* set config.model.overrides.dropout"),
        ({"mixup": 1.0}, r"mixup=1 is larger .*, 0.4; .* set config.augment.mixup"),
        ({"magnitude": 10.0}, r"magnitude=10 is larger .*, 9; .* set config.augment.magnitude"),
        ({"stages": 0}, r"progressive.stages must be a whole number from 1"),
    ],
)
def test_values_that_cannot_grow_are_refused(config, fields, words):
    config.progressive.update({"train_size": 128, **fields} if "stages" in fields else fields)
    config.augment.policy = "randaugment"
    with pytest.raises(UserError, match=words):
        check_config(config)


def test_a_magnitude_without_randaugment_is_refused(config):
    config.progressive.magnitude = 7.0
    with pytest.raises(UserError, match=r"magnitude=7.0 has no effect on a run without RandA"):
        check_config(config)


def test_images_that_shrink_are_refused(config):
    config.progressive.train_size = 32
    check_config(config)
    with pytest.raises(UserError, match=r"have 32 pixels in an early stage and 20 in the last; "):
        dataset_of_run(config)


def test_the_last_size_is_that_of_the_weights_a_run_starts_from(image_dir):
    config = load("finetune", "se_resnet50")
    config.dataset.image_dir = str(image_dir)
    config.progressive.update({"stages": 2, "train_size": 256, "dropout": 0.0})
    dataset = dataset_of_run(with_preparation(config))
    assert dataset.train_sizes == (256, 288)


def test_images_held_in_memory_do_not_grow():
    config = default_config()
    config.progressive.stages = 2
    with pytest.raises(UserError, match=r"progressive.stages=2 has no effect on cifar10"):
        check_config(config)


def test_a_data_set_from_python_needs_a_crop_for_each_stage():
    config = default_config()
    config.progressive.stages = 2
    fields = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    dataset = StreamedDataset("x", Numbers(4), Numbers(4), SMALL, SMALL, **fields)
    with pytest.raises(UserError, match=r"stages=2, but .* of x have 1 stage.* give"):
        dataset_of_run(config, dataset)
    grows = StreamedDataset(
        "x", Numbers(4), Numbers(4), SMALL, SMALL, earlier_crops=(SMALL,), **fields
    )
    assert dataset_of_run(config, grows).train_sizes == (2, 2)
    config.progressive.dropout = 0.0
    check_config(config, names_dataset=False)
