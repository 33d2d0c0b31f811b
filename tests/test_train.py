import functools
import json
import math
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import classification
from se_flax import train as train_module
from se_flax.errors import RunDiverged, UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.program import build_program, default_steps_per_dispatch
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import RunInterrupted, train
from se_flax.workdir import write_config


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def copy_of(finished, tmp_path):
    """Returns a copy of the finished run's workdir, which can be continued, and its config."""
    _, workdir, config = finished
    shutil.copytree(workdir, tmp_path / "copy")
    return tmp_path / "copy", config.copy_and_resolve_references()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, stripes):
    """A finished run of `tiny_config` on `stripes`: its summary, workdir and config."""
    from tests import tiny_run

    config = tiny_run.get_config()
    config.batch_size, config.log_every_steps = 16, 4
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return train(config, workdir, stripes), workdir, config


def test_a_run_learns(finished):
    summary, _, _ = finished
    assert summary["final"]["top1"] > 60  # four classes: chance is 25
    assert summary["best"]["top1"] >= summary["final"]["top1"]


def test_a_workdir_holds_what_the_readme_says(finished):
    summary, workdir, config = finished
    assert json.loads((workdir / "summary.json").read_text()) == summary
    for field in ("model", "dataset", "parameters", "seed", "steps", "seconds", "device"):
        assert field in summary
    assert summary["steps"] == 36
    assert summary["images_per_second"] > 0
    assert summary["best_chosen_on"] == "test"
    assert "jax" in summary["versions"]
    assert json.loads((workdir / "config.json").read_text())["model"] == json.loads(
        config.model.to_json()
    )
    assert "stage1_unit1" in (workdir / "parameters.txt").read_text()
    assert list(workdir.glob("events.out.tfevents.*"))


def test_metrics_have_one_row_per_log_step_and_one_evaluation_per_epoch(finished):
    _, workdir, _ = finished
    logged = rows(workdir)
    train_steps = [row["step"] for row in logged if "train/loss" in row]
    assert train_steps == sorted({*range(4, 37, 4), *range(6, 37, 6)})
    assert [row["step"] for row in logged if "test/top1" in row] == [6, 12, 18, 24, 30, 36]
    first = logged[0]
    assert first["train/learning_rate"] == pytest.approx(0.1)
    assert 0 < first["train/loss"] < 3 * math.log(4)


def test_the_two_latest_and_the_best_checkpoint_are_kept(finished):
    summary, workdir, _ = finished
    saved = Checkpoints(workdir, read_only=True)
    assert saved.steps == sorted({summary["best"]["step"], 30, 36})
    assert (saved.best, saved.latest) == ([summary["best"]["step"]], 36)
    saved.close()


@pytest.mark.parametrize("step", ["best", "latest"])
def test_evaluation_agrees_with_the_summary(finished, stripes, step):
    summary, workdir, _ = finished
    result = evaluate_workdir(workdir, step, dataset=stripes)
    expected = summary["best" if step == "best" else "final"]
    assert {key: result[key] for key in expected} == pytest.approx(expected)
    assert result["images"] == 37


def test_evaluation_of_a_missing_checkpoint_or_split_is_reported(finished, stripes, tmp_path):
    _, workdir, _ = finished
    with pytest.raises(UserError, match=r'no checkpoint "7".*36'):
        evaluate_workdir(workdir, 7, dataset=stripes)
    with pytest.raises(UserError, match='no split "validation"; its splits are train, test'):
        evaluate_workdir(workdir, split="validation", dataset=stripes)
    with pytest.raises(UserError, match="not the workdir of a run"):
        evaluate_workdir(tmp_path, dataset=stripes)


def test_a_complete_run_is_not_run_again(finished, stripes, capsys):
    summary, workdir, config = finished
    paths = [path for path in workdir.rglob("*") if path.is_file() and path.name != "lock"]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert train(config, workdir, stripes) == summary
    assert "complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_a_longer_run_continues_from_the_end_of_a_shorter_one(tmp_path, tiny_config, stripes):
    tiny_config.num_epochs = 2
    train(tiny_config, tmp_path / "run", stripes)
    tiny_config.num_epochs = 3
    summary = train(tiny_config, tmp_path / "run", stripes)
    assert summary["steps"] == 18
    assert [row["step"] for row in rows(tmp_path / "run") if "test/top1" in row] == [6, 12, 18]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.name": "resnet20_cifar", "model.overrides": {}}, "config.model.name"),
        ({"model.overrides": {"reduction": 4}}, "config.model.overrides"),
        ({"batch_size": 32}, "config.batch_size=16, not 32"),
        ({"seed": 1}, "config.seed=0, not 1"),
        ({"validation_fraction": 0.2}, "config.validation_fraction"),
        ({"ema_decay": 0.9}, "does not fit"),
        ({"optimizer.momentum": 0.0}, "does not fit"),
    ],
)
def test_the_workdir_of_another_run_is_left_unchanged(finished, stripes, change, message):
    _, workdir, config = finished
    other = config.copy_and_resolve_references()
    with other.unlocked():
        for field, value in change.items():
            *parents, name = field.split(".")
            functools.reduce(getattr, parents, other)[name] = value
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        train(other, workdir, stripes)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_the_best_is_chosen_on_held_out_images_where_there_are_any(tmp_path, tiny_config, stripes):
    tiny_config.validation_fraction = 0.2
    tiny_config.num_epochs = 3
    summary = train(tiny_config, tmp_path, stripes)
    assert summary["best_chosen_on"] == "validation"
    logged = rows(tmp_path)
    by_step = {row["step"]: row["validation/top1"] for row in logged if "validation/top1" in row}
    assert by_step[summary["best"]["step"]] == max(by_step.values())
    assert not any(key.startswith("test/") for row in logged for key in row)
    for name in ("best", "final"):
        expected = evaluate_workdir(tmp_path, summary[name]["step"], dataset=stripes)
        assert summary[name]["top1"] == pytest.approx(expected["top1"])
    held_out = evaluate_workdir(tmp_path, split="validation", dataset=stripes)
    assert held_out["images"] == 20
    assert held_out["top1"] == pytest.approx(max(by_step.values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"ema_decay": 0.8, "label_smoothing": 0.1, "optimizer.clip_norm": 1.0},
        {"schedule.name": "cosine", "steps_per_dispatch": 4},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_run_trains_with_each_option(tmp_path, tiny_config, stripes, changes):
    tiny_config.update_from_flattened_dict(changes)
    summary = train(tiny_config, tmp_path, stripes)
    assert summary["final"]["top1"] > 40
    result = evaluate_workdir(tmp_path, "latest", dataset=stripes)
    assert result["loss"] == pytest.approx(summary["final"]["loss"], rel=1e-5)


def test_a_stopped_run_saves_and_the_same_call_continues_it(
    finished, tmp_path, tiny_config, stripes, monkeypatch
):
    undisturbed, workdir, _ = finished

    class StopAtOnce(train_module.Interrupt):
        requested = property(lambda self: True, lambda self, value: None)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Interrupt", StopAtOnce)
        for step in (1, 2, 3):
            with pytest.raises(RunInterrupted, match=f"stopped at step {step};"):
                train(tiny_config, tmp_path / "stopped", stripes)
    resumed = train(tiny_config, tmp_path / "stopped", stripes)
    assert resumed["final"] == undisturbed["final"]
    assert rows(tmp_path / "stopped") == rows(workdir)


def test_a_run_that_failed_continues_from_its_last_checkpoint(
    finished, tmp_path, tiny_config, stripes, monkeypatch
):
    undisturbed, workdir, _ = finished

    def fail_late(self, step, split, results):
        if step == 24:
            raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(train_module.Progress, "say_results", fail_late)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(tiny_config, tmp_path / "failed", stripes)
    saved = Checkpoints(tmp_path / "failed", read_only=True)
    assert saved.latest == 18
    saved.close()
    assert train(tiny_config, tmp_path / "failed", stripes)["final"] == undisturbed["final"]
    assert rows(tmp_path / "failed") == rows(workdir)


def test_a_power_cut_never_takes_rows_that_precede_a_checkpoint(
    tmp_path, tiny_config, stripes, monkeypatch
):
    metrics, safe, saves = tmp_path / "metrics.jsonl", [0], []
    fsync, save = os.fsync, Checkpoints.save

    def note_rows(file):
        fsync(file)
        if metrics.exists() and os.path.samestat(os.fstat(file), metrics.stat()):
            safe.append(metrics.stat().st_size)

    def note_save(self, *arguments):
        saves.append(safe[-1])
        assert saves[-1] == metrics.stat().st_size > 0
        save(self, *arguments)

    monkeypatch.setattr(os, "fsync", note_rows)
    monkeypatch.setattr(Checkpoints, "save", note_save)
    train(tiny_config, tmp_path, stripes)
    assert saves


def test_steps_per_dispatch_on_an_accelerator_divide_the_epoch(monkeypatch):
    assert default_steps_per_dispatch(391) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_steps_per_dispatch(391) == 23
    assert default_steps_per_dispatch(390) == 78
    assert default_steps_per_dispatch(397) == 64  # a prime number


def test_parameters_are_stored_under_the_names_of_their_submodules(finished, stripes):
    _, workdir, config = finished
    program = build_program(config, stripes)
    saved = Checkpoints(workdir, read_only=True)
    state, progress = saved.restore(program.abstract(), 36)
    saved.close()
    assert state.params["stage2_unit1"]["se"]["expand"]["kernel"].shape == (4, 8)
    assert int(state.step) == 36
    assert progress["seconds"] > 0
    assert np.isfinite(jax.tree.leaves(state.params)[0]).all()


def test_changes_of_the_config_of_a_continued_run_are_reported(finished, stripes, tmp_path, capsys):
    workdir, config = copy_of(finished, tmp_path)
    config.optimizer.learning_rate = 0.05
    train(config, workdir, stripes)
    assert "not applied, because this run is complete: config.optimizer.learning_rate is 0.05" in (
        capsys.readouterr().out
    )
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["learning_rate"] == 0.1
    config.num_epochs += 1
    train(config, workdir, stripes)
    output = capsys.readouterr().out
    assert "from step 36 on, config.optimizer.learning_rate is 0.05, before 0.1" in output
    assert "from step 36 on, config.num_epochs is 7, before 6" in output


def test_a_run_already_past_the_requested_end_is_refused(finished, stripes, tmp_path):
    workdir, config = copy_of(finished, tmp_path)
    config.num_epochs = 2
    with pytest.raises(UserError, match="at step 36, past the 12 steps"):
        train(config, workdir, stripes)
    assert json.loads((workdir / "config.json").read_text())["num_epochs"] == 6


def test_a_run_that_diverges_stops_and_keeps_its_last_checkpoint(tmp_path, tiny_config, stripes):
    tiny_config.num_epochs = 1
    train(tiny_config, tmp_path, stripes)
    tiny_config.num_epochs = 3
    tiny_config.optimizer.learning_rate = 1e30
    with pytest.raises(RunDiverged, match=r"step 8: loss nan, gradient norm nan, learning rate 1e"):
        train(tiny_config, tmp_path, stripes)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.steps == [6]
    checkpoints.close()


def test_updates_that_are_not_finite_can_be_skipped(tmp_path, tiny_config, stripes, monkeypatch):
    tiny_config.on_nonfinite = "skip"
    tiny_config.log_every_steps = 1
    make_train_step = classification.make_train_step

    def of_bad_batches(*arguments, **options):
        step = make_train_step(*arguments, **options)

        def train_step(state, batch):
            bad = (state.step == 3) | (state.step == 5)
            return step(state, batch.replace(images=jnp.where(bad, jnp.nan, batch.images)))

        return train_step

    monkeypatch.setattr(classification, "make_train_step", of_bad_batches)
    summary = train(tiny_config, tmp_path / "skips", stripes)
    assert summary["skipped"] == 2
    logged = {row["step"]: row for row in rows(tmp_path / "skips") if "train/skipped" in row}
    assert [logged[step]["train/skipped"] for step in (3, 4, 5, 6, 36)] == [0, 1, 1, 2, 2]
    assert [step for step in logged if "train/loss" not in logged[step]] == [4, 6]
    assert summary["final"]["top1"] > 40
    tiny_config.on_nonfinite = "stop"
    with pytest.raises(RunDiverged, match="at step 4: loss nan"):
        train(tiny_config, tmp_path / "stops", stripes)


def test_a_run_that_skips_every_update_ends(tmp_path, tiny_config, stripes):
    tiny_config.on_nonfinite = "skip"
    tiny_config.num_epochs = 30
    tiny_config.optimizer.learning_rate = 1e30
    with pytest.raises(RunDiverged, match=r"at step 2: .* none of 100 updates"):
        train(tiny_config, tmp_path, stripes)


def test_a_run_on_arrays_is_evaluated_on_arrays(finished):
    _, workdir, _ = finished
    with pytest.raises(UserError, match='trained on "stripes", which cannot be loaded by name'):
        evaluate_workdir(workdir)


def test_the_summary_of_a_shorter_run_is_not_used_for_a_longer_one(finished, stripes, tmp_path):
    workdir, config = copy_of(finished, tmp_path)
    path = workdir / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "steps": 18, "final": {"top1": 1.0}}))
    again = train(config, workdir, stripes)
    assert (again["steps"], again["final"]) == (36, summary["final"])


@pytest.fixture
def earlier(finished, tmp_path):
    """The workdir and config of a finished run, as an earlier version would have left it."""
    workdir, config = copy_of(finished, tmp_path)

    def progress_of(self, step):
        return {k: v for k, v in progress(self, step).items() if k != "format"}

    progress, restore = Checkpoints.progress, Checkpoints.restore

    def restore_of(self, abstract, step):
        arrays, carried = restore(self, abstract, step)
        return arrays, {k: v for k, v in carried.items() if k not in ("format", "meters")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "progress", progress_of)
        patch.setattr(Checkpoints, "restore", restore_of)
        yield workdir, config


def test_a_run_of_an_earlier_version_is_not_continued(earlier, stripes):
    workdir, config = earlier
    config.num_epochs += 1
    with pytest.raises(UserError, match="holds a run of an earlier version"):
        train(config, workdir, stripes)


def test_a_complete_run_of_an_earlier_version_is_complete(earlier, finished, stripes):
    workdir, config = earlier
    assert train(config, workdir, stripes) == finished[0]
    assert evaluate_workdir(workdir, "latest", dataset=stripes)["top1"] == pytest.approx(
        finished[0]["final"]["top1"]
    )


def test_images_held_out_by_an_earlier_version_are_not_evaluated(earlier, stripes):
    workdir, config = earlier
    config.validation_fraction = 0.3
    write_config(workdir, config)
    with pytest.raises(UserError, match='no split "validation"; its splits are test'):
        evaluate_workdir(workdir, "latest", "validation", dataset=stripes)


@pytest.mark.parametrize(
    ("file", "text"),
    [("config.json", '{"seed": 0'), ("config.json", "[5]"), ("checkpoints/36/state", None)],
)
def test_a_damaged_workdir_is_reported(finished, stripes, tmp_path, file, text):
    workdir, _ = copy_of(finished, tmp_path)
    if text:
        (workdir / file).write_text(text)
    else:
        shutil.rmtree(workdir / file / "ocdbt.process_0")
        (workdir / file / "manifest.ocdbt").write_bytes(b"not a database")
    with pytest.raises(UserError, match="damaged"):
        evaluate_workdir(workdir, "latest", dataset=stripes)


def test_each_row_reaches_the_callback_with_its_times(tmp_path, tiny_config, stripes):
    tiny_config.num_epochs = 2
    called = []
    train(tiny_config, tmp_path, stripes, callback=lambda *row: called.append(row))
    assert [step for step, _ in called] == [row["step"] for row in rows(tmp_path)]
    for (_, values), row in zip(called, rows(tmp_path), strict=True):
        assert {name: x for name, x in values.items() if not name.startswith("time/")} == {
            name: x for name, x in row.items() if name != "step"
        }
    last = called[-1][1]
    assert last["time/epoch"] == 2
    assert last["time/seconds"] > called[0][1]["time/seconds"] > 0
    assert last["time/images_per_second"] > 0


def test_tensorboard_shows_images_and_what_the_run_was_configured_with(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, workdir, _ = finished
    events = EventAccumulator(str(workdir))
    events.Reload()
    (image,) = events.Images("training images")
    assert min(image.width, image.height) > 100
    assert "time/images_per_second" in events.Tags()["scalars"]
    assert events.PluginTagToContent("hparams")


def test_a_log_that_is_no_terminal_shows_each_step_once(
    tmp_path, tiny_config, stripes, monkeypatch, capsys
):
    monkeypatch.setattr("se_flax.runtime.progress.QUIET_SECONDS", 0)
    tiny_config.num_epochs = 2
    train(tiny_config, tmp_path, stripes)
    steps = re.findall(r"step (\d+)/12 ", capsys.readouterr().out)
    assert steps == [str(step) for step in range(1, 13)]


def test_the_end_of_a_run_says_on_which_images_its_results_are(
    tmp_path, tiny_config, stripes, capsys
):
    tiny_config.num_epochs = 1
    train(tiny_config, tmp_path / "one", stripes)
    assert "\non 37 test images (best step chosen on the same images):\n" in capsys.readouterr().out
    tiny_config.validation_fraction = 0.2
    train(tiny_config, tmp_path / "two", stripes)
    output = capsys.readouterr().out
    assert "\non 37 test images (best step chosen on 20 validation images):\n" in output
    assert re.search(r"\n  final, step 5: top-1 .*\n  best, step 5: top-1 ", output)


def test_a_batch_larger_than_the_training_images_is_noted(tmp_path, tiny_config, stripes, capsys):
    tiny_config.num_epochs = 1
    tiny_config.batch_size = 104
    train(tiny_config, tmp_path, stripes)
    note, _, rest = capsys.readouterr().out.partition("first step done")
    assert "note: a batch of 104 is larger than the training split (100 images)" in note
    assert rest
