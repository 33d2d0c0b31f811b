"""Damage of any kind to any file of a checkpoint is reported or harmless."""

import random
import shutil

import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.program import build_program
from se_flax.runtime.checkpoint_format import Checkpoint, named_arrays
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import train
from tests import tiny_run

pytestmark = pytest.mark.faults


def removed(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_its_last_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def with_a_flipped_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(bytes(content))


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def overwritten(path):
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


WHOLE = (removed, emptied, halved, without_its_last_byte, zeroed, overwritten)
FLIPS = 40  # in each file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, stripes):
    """The workdir of a run with three checkpoints, and their content by step."""
    config = tiny_run.get_config()
    config.batch_size, config.num_epochs = 16, 3
    workdir = tmp_path_factory.mktemp("finished")
    summary = train(config, workdir, stripes)
    folders = sorted((workdir / "checkpoints").iterdir())
    held = {int(folder.name): Checkpoint.read(folder) for folder in folders}
    assert max(held) == 18
    assert len(held) >= 2
    abstract = build_program(config, stripes).abstract()
    return config, workdir, summary, held, abstract


def assert_same(found, expected):
    assert found.digest() == expected.digest()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def outcome(workdir, finished):
    """Opens a workdir as a run does; asserts that the run continues from what was saved."""
    *_, held, abstract = finished
    saved = Checkpoints(workdir)
    try:
        assert set(saved.steps) | {18} == set(held)
        for step in saved.steps:
            assert_same(Checkpoint.read(workdir / "checkpoints" / str(step)), held[step])
            assert saved._metrics[step] == held[step].metrics
        step = saved.latest
        state, progress = saved.restore(abstract, step)
        assert progress == held[step].progress
        for name, leaf in named_arrays(state).items():
            np.testing.assert_array_equal(leaf, held[step].arrays[name])
        return "harmless" if step == 18 else "reported"
    finally:
        saved.close()


def test_damage_to_any_file_is_noticed(finished, tmp_path, capsys):
    _, workdir, *_ = finished
    newest = workdir / "checkpoints" / "18"
    paths = sorted(path.relative_to(newest) for path in newest.rglob("*"))
    generator = random.Random(0)
    counts = {"harmless": 0, "reported": 0}
    for path in paths:
        damages = [(kind, ()) for kind in WHOLE]
        if (newest / path).is_dir():
            damages = [(removed, ())]
        else:
            bits = range(8 * (newest / path).stat().st_size)
            places = generator.sample(bits, min(FLIPS, len(bits)))
            damages += [(with_a_flipped_bit, (place,)) for place in places]
        for kind, arguments in damages:
            copy = tmp_path / "copy"
            shutil.copytree(workdir, copy)
            kind(copy / "checkpoints" / "18" / path, *arguments)
            how = outcome(copy, finished)
            counts[how] += 1
            said = capsys.readouterr().err
            if how == "reported":
                assert f"{copy}/checkpoints/18 is damaged" in said
                assert (copy / "damaged_checkpoints" / "18").is_dir()
            else:
                assert not said
            shutil.rmtree(copy)
    print(f"{len(paths)} files and folders, {sum(counts.values())} damages: {counts}")
    assert counts["reported"] > 100  # not all, since reading needs only part of a checkpoint


@pytest.mark.parametrize("kind", [removed, halved, overwritten])
def test_a_run_with_a_damaged_checkpoint_ends_like_an_undamaged_one(
    finished, stripes, tmp_path, kind
):
    config, workdir, summary, held, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "summary.json").unlink()
    for path in (copy / "checkpoints" / "18" / "state" / "ocdbt.process_0" / "d").iterdir():
        kind(path)
    again = train(config, copy, stripes)
    assert again["final"] == summary["final"]
    assert_same_except_for_times(Checkpoint.read(copy / "checkpoints" / "18"), held[18])
    assert (copy / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()


def assert_same_except_for_times(found, expected):
    found.progress["seconds"] = expected.progress["seconds"]
    assert_same(found, expected)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_over(finished, stripes, tmp_path):
    config, workdir, *_ = finished
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for folder in (copy / "checkpoints").iterdir():
        (folder / "state" / "manifest.ocdbt").unlink()
    steps = sorted(path.name for path in (copy / "checkpoints").iterdir())
    for _ in range(2):
        with pytest.raises(UserError, match=r"all checkpoints of .* are damaged and were moved"):
            train(config, copy, stripes)
        set_aside = sorted(path.name for path in (copy / "damaged_checkpoints").iterdir())
        assert set_aside == steps
    shutil.rmtree(copy / "damaged_checkpoints")
    assert train(config, copy, stripes)["steps"] == 18
