import json
import os

import numpy as np
import pytest

from tests.tiny_run import stream_options

FLAGS = os.environ.get("XLA_FLAGS", "")
EIGHT_DEVICES = {"XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count=8"}


def curve(run_command, workdir, sync, *options, **environment):
    process = run_command(
        *("se_flax.main", "--config=tests/tiny_run.py", f"--workdir={workdir}"),
        *("--config.num_epochs=2", "--config.log_every_steps=1"),
        f"--config.sync_batch_norm={sync}",
        *options,
        **environment,
    )
    assert process.returncode == 0, process.stderr
    rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = np.array([row["train/loss"] for row in rows if "train/loss" in row])
    return losses, json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def one_device(run_command, tmp_path_factory):
    losses, _ = curve(run_command, tmp_path_factory.mktemp("one"), sync=False)
    return losses


def test_eight_devices_with_shared_statistics_follow_the_curve_of_one(
    run_command, tmp_path, one_device
):
    losses, summary = curve(run_command, tmp_path, sync=True, **EIGHT_DEVICES)
    assert summary["device_count"] == 8
    assert len(losses) == 22
    np.testing.assert_allclose(losses[:5], one_device[:5], rtol=1e-5)
    # Rounding differences grow from step to step, as with any two orders of summation.
    np.testing.assert_allclose(losses, one_device, rtol=1e-3)


@pytest.mark.slow
def test_eight_devices_with_separate_statistics_do_not_follow_it(run_command, tmp_path, one_device):
    losses, _ = curve(run_command, tmp_path, sync=False, **EIGHT_DEVICES)
    assert np.abs(losses[:5] - one_device[:5]).max() > 1e-3
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_eight_devices_follow_the_curve_of_one_on_streamed_and_mixed_images(
    run_command, tmp_path, image_dir
):
    options = stream_options(image_dir)
    options += ("--config.batch_size=16", "--config.augment.mixup=0.5")
    options += ("--config.augment.policy=autoaugment_cifar10",)
    one, _ = curve(run_command, tmp_path / "one", True, *options)
    eight, summary = curve(run_command, tmp_path / "eight", True, *options, **EIGHT_DEVICES)
    assert summary["device_count"] == 8
    assert len(one) == len(eight) == 6
    np.testing.assert_allclose(eight, one, rtol=1e-3)
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["final"][
        "top1"
    ] == pytest.approx(summary["final"]["top1"], abs=100 / 13 + 0.01)
