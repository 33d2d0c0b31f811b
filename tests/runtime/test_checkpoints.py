import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from se_flax.errors import StorageError, UserError
from se_flax.runtime import storage
from se_flax.runtime.checkpoint_format import CheckpointDamaged
from se_flax.runtime.checkpoints import Checkpoints


def tree_at(step, seeds=()):
    weights = np.random.default_rng(step).normal(size=(*seeds, 50, 7)).astype(np.float32)
    return {
        "step": jnp.full(seeds, step),
        "params": {"dense": {"kernel": jnp.array(weights), "bias": jnp.full((*seeds, 7), -0.0)}},
        "batch_stats": {},
        "opt_state": ({"trace": jnp.array(weights * 2)}, ()),
    }


def assert_equal(found, expected):
    def same(x, y):
        np.testing.assert_array_equal(x, y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()

    jax.tree.map(same, found, expected)


@pytest.fixture
def saved(tmp_path):
    """The checkpoints of steps 1 to 4, of which 1 is the best, and their workdir."""
    checkpoints = Checkpoints(tmp_path)
    for step, top1 in ((1, 90.0), (2, 50.0), (3, None), (4, 70.0)):
        checkpoints.save(step, tree_at(step), {"seconds": step / 3}, top1 and {"top1": top1})
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def damage(workdir, step):
    """Changes numbers of a checkpoint without making its files unreadable to Orbax."""
    other = Checkpoints(workdir / "other")
    other.save(step + 100, tree_at(step + 100), {"seconds": 0.0})
    other.wait()
    other.close()
    folder = workdir / "checkpoints" / str(step) / "state"
    shutil.rmtree(folder)
    shutil.copytree(workdir / "other" / "checkpoints" / str(step + 100) / "state", folder)
    shutil.rmtree(workdir / "other")


def test_the_two_latest_and_the_best_are_kept_as_they_were_saved(saved):
    checkpoints = Checkpoints(saved)
    assert (checkpoints.steps, checkpoints.latest, checkpoints.best) == ([1, 3, 4], 4, [1])
    for step in (1, 3, 4):
        tree, progress = checkpoints.restore(tree_at(0), step)
        assert_equal(tree, tree_at(step))
        assert progress == {"seconds": step / 3}
    checkpoints.close()


def test_arrays_may_change_as_soon_as_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        tree = tree_at(step)
        checkpoints.save(step, tree, {})
        jax.tree.map(lambda x: x.delete(), tree)
    checkpoints.wait()
    assert_equal(checkpoints.restore(tree_at(0), 2)[0], tree_at(2))
    checkpoints.close()


def test_a_checkpoint_with_changed_numbers_is_set_aside_for_the_previous_one(saved, capsys):
    damage(saved, 4)
    checkpoints = Checkpoints(saved)
    assert "checkpoints/4 is damaged (its content is not what was saved)" in capsys.readouterr().err
    assert (checkpoints.steps, checkpoints.latest, checkpoints.best) == ([1, 3], 3, [1])
    assert (saved / "damaged_checkpoints" / "4" / "state").is_dir()
    checkpoints.save(4, tree_at(4), {})  # the continued run reaches that step again
    checkpoints.wait()
    checkpoints.close()
    damage(saved, 4)
    Checkpoints(saved).close()
    assert {path.name for path in (saved / "damaged_checkpoints").iterdir()} == {"4", "4_1"}


def test_a_best_checkpoint_damaged_after_opening_is_not_used(saved):
    checkpoints = Checkpoints(saved)
    damage(saved, 1)
    tree, steps = checkpoints.restore_best(tree_at(0))
    assert steps == [4]
    assert_equal(tree, tree_at(4))
    checkpoints.close()


def test_changed_metrics_are_detected(saved):
    metrics = saved / "checkpoints" / "4" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text().replace("70", "99"))
    checkpoints = Checkpoints(saved)
    assert checkpoints.best == [1]
    checkpoints.close()


def test_without_a_good_checkpoint_a_run_is_not_started_over(saved):
    for step in (1, 3, 4):
        damage(saved, step)
    for _ in range(2):
        with pytest.raises(UserError, match=r"all checkpoints of .* were moved to .*damaged_check"):
            Checkpoints(saved)


def test_a_reader_moves_nothing_and_reports_damage(saved):
    damage(saved, 4)
    checkpoints = Checkpoints(saved, read_only=True)
    for ask in (lambda: checkpoints.latest, lambda: checkpoints.best):
        with pytest.raises(
            UserError, match=r"checkpoints/4 is damaged .* choose another by its step"
        ):
            ask()
    with pytest.raises(CheckpointDamaged, match="checkpoints/4 is damaged"):
        checkpoints.restore(tree_at(0), 4)
    assert_equal(checkpoints.restore(tree_at(0), 3)[0], tree_at(3))
    assert not (saved / "damaged_checkpoints").exists()
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema": {"params": jnp.zeros(3)}}, "it lacks ema/params"),
        ({"opt_state": ()}, "it holds opt_state/0/trace, which this config does not have"),
        ({"step": jnp.zeros(2, jnp.int32)}, r"its step is int32 \[\], not int32 \[2\]"),
    ],
)
def test_a_tree_with_another_structure_is_not_mistaken_for_damage(saved, change, message):
    checkpoints = Checkpoints(saved)
    with pytest.raises(UserError, match=f"{message}; give the config of that run") as error:
        checkpoints.restore(tree_at(0) | change, 4)
    assert not isinstance(error.value, CheckpointDamaged)
    assert checkpoints.steps == [1, 3, 4]
    checkpoints.close()


def test_the_best_checkpoints_by_each_metric_are_combined(tmp_path):
    checkpoints = Checkpoints(tmp_path, ("seed5/top1", "seed6/top1"))
    for step, top1 in ((1, (90, 10)), (2, (20, 80)), (3, (30, 30)), (4, (30, 30))):
        named = {"top1": sum(top1) / 2, "seed5/top1": top1[0], "seed6/top1": top1[1]}
        checkpoints.save(step, tree_at(step, (2,)), {}, named)
    checkpoints.wait()
    tree, steps = checkpoints.restore_best(tree_at(0, (2,)))
    assert steps == [1, 2]
    first, second = tree_at(1, (2,)), tree_at(2, (2,))
    assert_equal(tree, jax.tree.map(lambda x, y: jnp.stack([x[0], y[1]]), first, second))
    checkpoints.close()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_save_that_fails_for_a_while_succeeds_in_the_end(tmp_path, monkeypatch, failures):
    monkeypatch.setattr(storage, "DELAYS", (0.0, 0.0))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree_at(1), {})
    checkpoints.wait()
    failing_saves(monkeypatch, failures)
    checkpoints.save(2, tree_at(2), {})
    checkpoints.save(3, tree_at(3), {})
    checkpoints.wait()
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.steps == [2, 3]
    assert_equal(again.restore(tree_at(0), 2)[0], tree_at(2))
    again.close()


def test_a_save_that_keeps_failing_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DELAYS", (0.0, 0.0))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree_at(1), {})
    checkpoints.wait()
    failing_saves(monkeypatch, 10)
    checkpoints.save(2, tree_at(2), {})
    with pytest.raises(StorageError, match=r"cannot write the checkpoint of step 2 .*: No space"):
        checkpoints.wait()
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.steps == [1]
    again.close()


@pytest.mark.parametrize("kind", [TypeError, AttributeError])
def test_a_mistake_in_the_program_is_raised_at_once(tmp_path, monkeypatch, capsys, kind):
    checkpoints = Checkpoints(tmp_path)
    failing_saves(monkeypatch, 1, kind("a mistake"))
    checkpoints.save(1, tree_at(1), {})
    with pytest.raises(kind, match="a mistake"):
        checkpoints.wait()
    assert not capsys.readouterr().err
    checkpoints.save(2, tree_at(2), {})
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).steps == [2]


# In TensorStore's words.
NO_SPACE = ValueError("Error writing: No space left on device [lots=of details]")


def failing_saves(monkeypatch, failures, error=NO_SPACE):
    """Makes the next `failures` saves raise an error."""
    save, left = ocp.CheckpointManager.save, [failures]

    def fail(self, *arguments, **options):
        if left[0]:
            left[0] -= 1
            raise error
        return save(self, *arguments, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)


@pytest.mark.parametrize("while_saving", [False, True])
def test_a_folder_that_is_gone_is_not_made_again(tmp_path, monkeypatch, while_saving):
    monkeypatch.setattr(storage, "DELAYS", (0.0,))
    checkpoints = Checkpoints(tmp_path / "run")
    save = ocp.CheckpointManager.save

    def move_and_save(self, *arguments, **options):
        (tmp_path / "run").rename(tmp_path / "moved")
        return save(self, *arguments, **options)

    if while_saving:
        monkeypatch.setattr(ocp.CheckpointManager, "save", move_and_save)
    else:
        (tmp_path / "run").rename(tmp_path / "moved")
    checkpoints.save(1, tree_at(1), {})
    with pytest.raises(StorageError, match="No such file or directory"):
        checkpoints.wait()
    checkpoints.close()
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_closing_tries_again_and_reports_what_it_could_not_write(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "DELAYS", (0.0,))
    checkpoints = Checkpoints(tmp_path)
    failing_saves(monkeypatch, 1)
    checkpoints.save(1, tree_at(1), {})
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.steps == [1]
    failing_saves(monkeypatch, 2)
    capsys.readouterr()
    again.save(2, tree_at(2), {})
    again.close()
    assert "cannot write the checkpoint of step 2" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_does_not_wait_for_a_save(tmp_path, monkeypatch):
    may_end, ended = threading.Event(), threading.Event()

    def hang(self, *arguments, **options):
        may_end.wait(60)
        ended.set()

    monkeypatch.setattr(ocp.CheckpointManager, "save", hang)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree_at(1), {})
    with pytest.raises(KeyboardInterrupt), checkpoints:
        raise KeyboardInterrupt
    assert not ended.is_set()
    may_end.set()


@pytest.mark.parametrize(
    "error",
    [
        OSError(116, "Stale file handle"),
        ValueError("DATA_LOSS: Error reading local file: Input/output error [source locations=x]"),
        ValueError("PERMISSION_DENIED: Error opening file: Permission denied"),
    ],
)
def test_a_temporary_read_error_is_not_mistaken_for_damage(saved, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "restore", fail)
        with pytest.raises(UserError, match=r"cannot read .*checkpoints/1: ") as raised:
            Checkpoints(saved)
    assert not isinstance(raised.value, CheckpointDamaged)
    assert not (saved / "damaged_checkpoints").exists()
    assert Checkpoints(saved).steps == [1, 3, 4]


def test_the_best_of_a_run_in_progress_is_the_best_at_opening(saved):
    reader = Checkpoints(saved, read_only=True)
    run = Checkpoints(saved)
    run.save(5, tree_at(5), {}, {"top1": 80.0})
    run.close()
    assert reader.best == [1]
    assert_equal(reader.restore_best(tree_at(0))[0], tree_at(1))


def test_a_checkpoint_that_is_written_is_safe_from_a_power_cut(tmp_path, monkeypatch):
    safe, fsync = set(), os.fsync

    def note(file):
        fsync(file)
        safe.add(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree_at(1), {"seconds": 1.0}, {"top1": 3.0})
    checkpoints.wait()
    for path in (tmp_path / "checkpoints", *(tmp_path / "checkpoints" / "1").rglob("*")):
        assert path.stat().st_ino in safe, path
    checkpoints.close()
