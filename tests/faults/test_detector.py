"""A detector learns eight photographs by heart, also if it is killed on the way."""

import json
import pathlib
import subprocess
import sys
import time
import zipfile

import jax
import numpy as np
import pytest

from se_flax.detection.coco import read_coco
from tests.detection.test_average_precision import SAMPLE
from tests.runs import ROOT, final_state, kill, random_generator, rows

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not SAMPLE.exists(), reason="needs a sample of COCO"),
    pytest.mark.timeout(7200),
]
COUNT = 8
KILLED_AT = ((3, 60), (100, 200))  # rows of the log, of which an epoch has one
OPTIONS = {
    "dataset.short_side": 320,
    "dataset.long_side": 427,
    "batch_size": 1,
    "eval_batch_size": 1,
    "num_epochs": 250,
    "eval_every_epochs": 125,
    "schedule.warmup_epochs": 4.0,
    "augment.horizontal_flip": False,
    "checkpoint_every_minutes": 0.2,
    "model.overrides.anchors_drawn": 128,
    "model.overrides.regions_drawn": 128,
    "model.overrides.proposals_before": 300,
    "model.overrides.proposals_after": 200,
    "model.overrides.train_proposals_before": 300,
    "model.overrides.train_proposals_after": 200,
    "model.overrides.detections": 100,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    """A folder with the first wide photographs of the sample, for training and for evaluation."""
    folder = tmp_path_factory.mktemp("coco")
    with zipfile.ZipFile(SAMPLE) as file:
        file.extractall(folder)
    source, _ = read_coco(folder)
    sizes = source.annotations.sizes
    wide = np.flatnonzero(sizes[:, 1] >= sizes[:, 0])[:COUNT]
    content = source.annotations.of_images(wide).in_coco_format(source.categories)
    for entry, i in zip(content["images"], wide, strict=True):
        entry["file_name"] = str(source.folder / source.file_names[i])
    eight = tmp_path_factory.mktemp("eight")
    for split in ("train", "val"):
        (eight / f"{split}.json").write_text(json.dumps(content))
    return eight


def start(photographs, workdir):
    options = [f"--config.{name}={value}" for name, value in OPTIONS.items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "se_flax.main", "--config=configs/faster_rcnn_quickstart.py"),
            *(f"--config.dataset.coco={photographs}", f"--workdir={workdir}", *options),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_eight_photographs_are_learnt_by_heart_and_kills_change_nothing(tmp_path, photographs):
    generator = random_generator()
    begun = time.monotonic()
    process = start(photographs, tmp_path / "undisturbed")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    seconds = time.monotonic() - begun
    summary = json.loads((tmp_path / "undisturbed" / "summary.json").read_text())
    print(f"average precision {summary['final']['AP']:.1f}% after {seconds:.0f} s")
    assert summary["final"]["AP"] > 90

    for least, most in KILLED_AT:
        process = start(photographs, tmp_path / "killed")
        count = generator.randint(least, most)
        while len(rows(tmp_path / "killed")) < count:  # for as long as it takes
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        kill(process)
    process = start(photographs, tmp_path / "killed")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "continuing from step" in output
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(tmp_path / "killed"),
        final_state(tmp_path / "undisturbed"),
    )
