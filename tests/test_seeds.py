"""Several seeds trained as one run."""

import json
import shutil

import jax
import numpy as np
import pytest

from se_flax import train as train_module
from se_flax.config import check_config
from se_flax.errors import RunDiverged, UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.program import build_program
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.seeds import metrics_to_choose_by
from se_flax.train import RunInterrupted, train
from tests import tiny_run

SEEDS = (3, 4, 5)


def final_params(workdir, config, dataset):
    program = build_program(config, dataset)
    metrics = metrics_to_choose_by(program.networks.seeds)
    saved = Checkpoints(workdir, metrics, read_only=True)
    state, _ = saved.restore(program.abstract(), program.plan.total_steps)
    saved.close()
    return state.params


def with_seeds(config, first, count, mode="auto"):
    config = config.copy_and_resolve_references()
    config.seed, config.num_seeds, config.seed_mode = first, count, mode
    config.num_epochs, config.augment.crop_padding = 3, 2
    return config


@pytest.fixture(scope="module")
def alone(tmp_path_factory, stripes):
    """The summary, final parameters and logged rows of each seed trained alone."""
    from tests import tiny_run

    config = tiny_run.get_config()
    config.batch_size, config.log_every_steps = 16, 4
    result = {}
    for seed in SEEDS:
        workdir = tmp_path_factory.mktemp("alone")
        one = with_seeds(config, seed, 1)
        summary = train(one, workdir, stripes)
        rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
        result[seed] = summary, final_params(workdir, one, stripes), rows
    return result


def assert_as_alone(workdir, config, summary, alone, dataset):
    params = final_params(workdir, config, dataset)
    rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
    for place, seed in enumerate(SEEDS):
        expected, expected_params, expected_rows = alone[seed]
        jax.tree.map(
            lambda x, y, place=place: np.testing.assert_allclose(x[place], y, rtol=1e-3, atol=1e-4),
            params,
            expected_params,
        )
        each = summary["per_seed"][place]
        assert each["seed"] == seed
        for name in ("final", "best"):
            assert each[name]["step"] == expected[name]["step"]
            assert each[name]["top1"] == pytest.approx(expected[name]["top1"])
            assert each[name]["loss"] == pytest.approx(expected[name]["loss"], rel=1e-3)
        assert len(rows) == len(expected_rows)
        for row, expected_row in zip(rows, expected_rows, strict=True):
            assert row["step"] == expected_row["step"]
            for name in expected_row.keys() - {"step", "train/learning_rate"}:
                split, _, metric = name.partition("/")
                value = row[f"{split}/seed{seed}/{metric}"]
                assert value == pytest.approx(expected_row[name], rel=1e-3)
    losses = [each["final"]["loss"] for each in summary["per_seed"]]
    assert len(set(losses)) == len(SEEDS)
    assert summary["final"]["loss"] == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("mode", [pytest.param("vmap", marks=pytest.mark.slow), "in_turn"])
def test_each_seed_ends_as_if_trained_alone(tmp_path, tiny_config, stripes, alone, mode):
    config = with_seeds(tiny_config, SEEDS[0], len(SEEDS), mode)
    summary = train(config, tmp_path, stripes)
    assert_as_alone(tmp_path, config, summary, alone, stripes)
    result = evaluate_workdir(tmp_path, "best", dataset=stripes)
    assert [each["top1"] for each in result["per_seed"]] == [
        pytest.approx(alone[seed][0]["best"]["top1"]) for seed in SEEDS
    ]
    assert result["step"] == [alone[seed][0]["best"]["step"] for seed in SEEDS]


@pytest.mark.slow
def test_an_interrupted_run_of_several_seeds_continues(
    tmp_path, tiny_config, stripes, alone, monkeypatch
):
    config = with_seeds(tiny_config, SEEDS[0], len(SEEDS))

    class StopAtOnce(train_module.Interrupt):
        requested = property(lambda self: True, lambda self, value: None)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Interrupt", StopAtOnce)
        for _ in range(2):
            with pytest.raises(RunInterrupted):
                train(config, tmp_path, stripes)
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    config.seed_mode = "vmap"  # the way seeds are computed may change midway
    summary = train(config, tmp_path, stripes)
    assert_as_alone(tmp_path, config, summary, alone, stripes)

    config.seed_mode = "in_turn"
    train(config, tmp_path.with_name("copy"), stripes)
    train(config, tmp_path.with_name("undisturbed"), stripes)
    jax.tree.map(
        np.testing.assert_array_equal,
        final_params(tmp_path.with_name("copy"), config, stripes),
        final_params(tmp_path.with_name("undisturbed"), config, stripes),
    )


def test_the_largest_seed_can_be_used(stripes, tiny_config):
    config = with_seeds(tiny_config, 2**32 - 2, 2)
    check_config(config, names_dataset=False)
    networks = build_program(config, stripes).networks
    state = networks.save(networks.init())
    np.testing.assert_array_equal(state.seed, np.array([2**32 - 2, 2**32 - 1], np.uint32))
    config.num_seeds = 3
    with pytest.raises(UserError, match="leaves no room"):
        check_config(config, names_dataset=False)


@pytest.mark.slow
def test_seeds_on_streamed_images_end_as_if_trained_alone(tmp_path, tiny_config, image_dir):
    def config_of(*seeds):
        config = with_seeds(tiny_config, *seeds)
        tiny_run.stream(config, image_dir)
        return config

    losses = []
    for seed in SEEDS[:2]:
        losses.append(train(config_of(seed, 1), tmp_path / str(seed))["final"]["loss"])
    summary = train(config_of(SEEDS[0], 2), tmp_path / "both")
    both = [each["final"]["loss"] for each in summary["per_seed"]]
    assert both == pytest.approx(losses, rel=1e-3)
    assert losses[0] != losses[1]
    at_once = config_of(SEEDS[0], 2, "vmap")
    with pytest.raises(UserError, match='config\\.seed_mode="in_turn"'):
        train(at_once, tmp_path / "vmap")
    assert not (tmp_path / "vmap").exists()


def test_the_number_of_seeds_of_a_run_cannot_change(tmp_path, tiny_config, stripes):
    config = with_seeds(tiny_config, 0, 2)
    config.num_epochs = 1
    train(config, tmp_path, stripes)
    config.num_seeds = 3
    with pytest.raises(UserError, match=r"config\.num_seeds=2, not 3"):
        train(config, tmp_path, stripes)


def test_a_seed_that_diverges_is_named(tmp_path, tiny_config, stripes):
    config = with_seeds(tiny_config, 7, 2)
    config.optimizer.learning_rate = 1e30
    with pytest.raises(RunDiverged, match="of seed 7"):
        train(config, tmp_path, stripes)
