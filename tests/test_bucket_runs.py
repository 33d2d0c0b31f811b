"""Runs whose folder is in Google Cloud Storage, in this process."""

import json
import pathlib

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

import se_flax
from experiments.queue import Queue
from experiments.study import read_result, result_path, write_result
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.runtime.lock import BucketLock
from se_flax.runtime.paths import is_in_bucket, to_path
from se_flax.train import RunInterrupted, train
from tests.runs import rows


def stopping_at(step):
    """Returns a callback that ends a run as a preemption would."""

    def callback(at, values):
        if at >= step:
            raise RunInterrupted("preempted")

    return callback


def files_of(workdir):
    """Returns the names of the files and folders of a run, without the time in their names."""
    return {path.name.partition(".tfevents")[0] for path in to_path(workdir).iterdir()}


def variables_of(workdir):
    return se_flax.load_run(workdir, "latest").variables


@pytest.fixture(scope="module")
def local(tmp_path_factory, stripes):
    """The folder of a run on a disk, and its summary."""
    from tests import tiny_run

    config = tiny_run.get_config()
    config.batch_size, config.log_every_steps, config.num_epochs = 16, 4, 2
    config.schedule.milestones = ()
    workdir = tmp_path_factory.mktemp("local")
    return config, workdir, train(config, workdir, stripes)


def test_a_run_in_a_bucket_is_the_same_as_on_a_disk(local, bucket, stripes):
    config, on_disk, expected = local
    workdir = str(bucket)
    with pytest.raises(RunInterrupted):
        train(config, workdir, stripes, stopping_at(8))
    summary = train(config, workdir, stripes)

    assert summary["final"] == expected["final"]
    assert json.loads((bucket / "summary.json").read_text()) == summary
    assert files_of(bucket) | {"lock"} == files_of(on_disk)
    assert rows(bucket) == rows(on_disk)
    jax.tree.map(np.testing.assert_array_equal, variables_of(workdir), variables_of(on_disk))
    assert evaluate_workdir(workdir, dataset=stripes) == evaluate_workdir(on_disk, dataset=stripes)
    assert not pathlib.Path("gs:").exists()


def test_a_run_in_a_bucket_can_be_watched_in_tensorboard(local, bucket, stripes, tmp_path):
    config, on_disk, _ = local
    seen = []

    def look(step, values):
        if step == 6:  # a checkpoint was saved after step 4
            seen.append(scalars_of(bucket, tmp_path))

    config = config.copy_and_resolve_references()
    config.checkpoint_every_minutes = 0.0
    train(config, bucket, stripes, look)
    final = scalars_of(bucket, tmp_path)
    assert final == scalars_of(on_disk, tmp_path)
    assert seen[0].items() < final.items()
    assert (4, "train/loss") in seen[0]


def scalars_of(workdir, folder):
    """Returns the scalars in a run's TensorBoard file by step and name, without times."""
    (path,) = workdir.glob("events*")
    (folder / "events").write_bytes(path.read_bytes())
    return {
        (event.step, value.tag): value.simple_value
        for event in LegacyEventFileLoader(str(folder / "events")).Load()
        for value in event.summary.value
        if value.HasField("simple_value") and not value.tag.startswith("time/")
    }


def test_a_second_run_in_the_same_bucket_folder_is_refused(local, bucket, stripes):
    with BucketLock(bucket), pytest.raises(UserError, match="is being written to by process"):
        train(local[0], bucket, stripes)


def test_a_run_in_a_bucket_that_does_not_exist_is_refused(local, server, stripes):
    with pytest.raises(UserError, match="results cannot be written to gs://nobucket/run"):
        train(local[0], "gs://nobucket/run", stripes)


def test_a_folder_in_a_bucket_that_holds_no_run_is_reported(bucket):
    for use in (evaluate_workdir, se_flax.load_run):
        with pytest.raises(UserError, match=f"{bucket} is not the workdir of a run"):
            use(str(bucket))


def test_the_results_of_studies_can_be_in_a_bucket(bucket):
    queue = Queue("smoke", 1, bucket, "stage", "plain")
    result = {"top1": 90.0}
    path = result_path(bucket, "stage", "smoke", "plain")
    write_result(path, result)
    assert read_result(path) == result
    assert read_result(result_path(str(bucket), "stage", "smoke", "other")) is None
    with queue._alone(), pytest.raises(UserError, match="is being written to"), queue._alone():
        pass
    assert is_in_bucket(queue.log)
