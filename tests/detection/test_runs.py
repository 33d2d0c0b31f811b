"""A detector's run: trained, continued, evaluated, opened and used."""

import dataclasses
import json

import flax.traverse_util
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from se_flax import detection
from se_flax.config import check_config, default_config
from se_flax.detection import evaluate as evaluate_module
from se_flax.detection.average_precision import average_precision
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.shapes import Shapes
from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError
from se_flax.evaluate import evaluate_workdir
from se_flax.program import build_program, with_preparation
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.train import train
from tests.conftest import ROOT

SMALL = {
    "stage_sizes": (1, 1, 1, 1),
    "widths": (8, 8, 8, 8),
    "pyramid_width": 8,
    "head_width": 8,
    "frozen": (),
    "anchors_drawn": 16,
    "regions_drawn": 16,
    "proposals_before": 20,
    "proposals_after": 10,
    "train_proposals_before": 20,
    "train_proposals_after": 10,
    "detections": 5,
}


def small_config(name: str = "fasterrcnn_se_resnet18_fpn") -> ConfigDict:
    config = default_config()
    config.model.name = name
    config.model.overrides.update(SMALL)
    config.model.overrides.score_threshold = 0.0
    config.dataset.name = "shapes"
    config.dataset.short_side = config.dataset.long_side = 64
    config.augment.crop_padding = 0
    config.batch_size = config.eval_batch_size = 4
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    config.log_every_steps = 15
    config.num_epochs, config.eval_every_epochs = 30, 15
    return config


@pytest.fixture(scope="module")
def images():
    """Twelve training and six test images of 64x64."""
    return DetectionDataset.of(
        "shapes", Shapes("train", 12, 64), Shapes("test", 6, 64), sizes=Sizes(64, 64)
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("detector")
    train(small_config(), folder, images)
    return folder


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def state_of(workdir, images):
    config = with_preparation(small_config(), None, images)
    with Checkpoints(workdir, read_only=True) as saved:
        return saved.restore(build_program(config, images).abstract(), 90)[0]


@pytest.mark.slow
def test_the_log_has_the_four_losses_and_their_sum(workdir):
    trained = [row for row in rows(workdir) if "train/loss" in row]
    assert [row["step"] for row in trained] == list(range(3, 91, 3))
    for row in trained:
        parts = [value for name, value in row.items() if name.endswith("_loss")]
        assert len(parts) == 4
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(row["train/loss"], rel=1e-5)
    evaluated = [row for row in rows(workdir) if "test/AP" in row]
    assert [row["step"] for row in evaluated] == [45, 90]


@pytest.mark.slow
def test_a_run_that_ends_early_continues_to_the_same_bits(tmp_path, workdir, images):
    def fail(step, values):
        if step == 75:
            raise ConnectionError("lost")

    with pytest.raises(ConnectionError):
        train(small_config(), tmp_path, images, fail)
    train(small_config(), tmp_path, images)
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path, images), state_of(workdir, images)
    )


@pytest.mark.slow
def test_an_evaluation_writes_the_detections_that_it_is_computed_from(tmp_path, workdir, images):
    file = tmp_path / "found.json"
    results = evaluate_workdir(workdir, "latest", dataset=images, detections=file)
    summary = json.loads((workdir / "summary.json").read_text())
    assert results["AP"] == summary["final"]["AP"] > 0
    assert results["images"] == 6
    found = json.loads(file.read_text())
    assert {each["image_id"] for each in found} == set(range(6))
    values = average_precision(found, images.test.annotations, images.test.categories)
    assert results["AP"] == pytest.approx(100 * values["AP"])


@pytest.mark.slow
def test_a_detector_opened_without_its_images_finds_what_the_evaluation_did(
    tmp_path, workdir, images
):
    file = tmp_path / "found.json"
    evaluate_workdir(workdir, "latest", dataset=images, detections=file)
    loaded = detection.load_run(workdir, "latest")
    assert loaded.classes == ("circle", "square", "triangle", "star", "cross")
    for i, found in enumerate(detection.find_objects(loaded, [images.test[i] for i in range(6)])):
        expected = [each for each in json.loads(file.read_text()) if each["image_id"] == i]
        np.testing.assert_array_equal(found.labels, [each["category_id"] for each in expected])
        np.testing.assert_allclose(
            found.scores, [each["score"] for each in expected], rtol=1e-4, atol=1e-6
        )
        boxes = np.array([each["bbox"] for each in expected])
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_what_is_no_image_and_a_detector_that_is_not_finite_are_refused(workdir, images):
    loaded = detection.load_run(workdir, "latest")
    image = images.test[0]
    for wrong in (image / np.float32(255), image[..., :1], image[None]):
        with pytest.raises(UserError, match=r"must be an array of uint8 with shape \[h, w, 3\]"):
            next(detection.find_objects(loaded, [wrong]))
    assert loaded.compiled is loaded.compiled
    nan = jax.tree.map(lambda x: np.full_like(x, np.nan), loaded.variables)
    with pytest.raises(UserError, match="not finite"):
        next(detection.find_objects(dataclasses.replace(loaded, variables=nan), [image]))


@pytest.mark.slow
def test_two_devices_find_the_same_as_one(run_python, tmp_path, workdir, images):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    evaluate_workdir(workdir, "latest", dataset=images, detections=one)
    process = run_python(
        "-c",
        f"""
from se_flax.detection import evaluate as evaluate_module
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.shapes import Shapes
from se_flax.detection.sizes import Sizes
from se_flax.evaluate import evaluate_workdir
parts = Shapes("train", 12, 64), Shapes("test", 6, 64)
images = DetectionDataset.of("shapes", *parts, sizes=Sizes(64, 64))
evaluate_workdir({str(workdir)!r}, "latest", dataset=images, detections={str(two)!r})
""",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert process.returncode == 0, process.stderr
    one, two = (
        sorted(json.loads(file.read_text()), key=lambda each: each["image_id"])
        for file in (one, two)
    )
    assert [each["category_id"] for each in one] == [each["category_id"] for each in two]
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_frozen_parts_and_batch_norms_stay_as_they_are(images):
    config = small_config()
    config.model.overrides.frozen = ("stem", "stage1")
    program = build_program(with_preparation(config, None, images), images)
    state = program.networks.init()
    before = jax.device_get(state[0].params)
    (after,), _ = program.train(state, 0, 1)
    program.close()
    moved = jax.tree.map(lambda new, old: (new != old).any(), jax.device_get(after.params), before)
    moved = flax.traverse_util.flatten_dict(moved)
    for path, has_moved in moved.items():
        frozen = path[:1] == ("backbone",) and path[1].startswith(("stem", "stage1_"))
        is_norm = path[0] == "backbone" and (*path[:-1], "scale") in moved
        if frozen or is_norm:
            assert not has_moved, path
    for part in ("fpn", "rpn", "box_head"):
        assert any(moved[path] for path in moved if path[0] == part)
    assert any(moved[path] for path in moved if path[1].startswith("stage4_"))


@pytest.mark.slow
def test_the_commands_show_a_detector_and_refuse_what_it_cannot_do(
    run_python, tmp_path, workdir, images
):
    photographs = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, photograph in enumerate(photographs):
        Image.fromarray(images.test[i]).save(photograph)
    figure = tmp_path / "figure.png"
    options = (f"--workdir={workdir}", "--step=latest", "--threshold=0")
    found = run_python("-m", "se_flax.predict", *options, f"--output={figure}", *photographs)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{photographs[0]}: ")
    assert "% " in found.stdout
    with Image.open(figure) as drawn:
        assert drawn.height == 482
    line = run_python("-m", "se_flax.predict", *options, "--json", photographs[0]).stdout
    assert {"file", "classes", "boxes", "scores", "labels"} == set(json.loads(line))
    refused = run_python("-m", "se_flax.analysis.confusion", f"--workdir={workdir}")
    assert refused.returncode == 2
    assert "has the detector fasterrcnn_se_resnet18_fpn" in refused.stderr
    refused = run_python(
        "-m",
        "se_flax.export",
        f"--workdir={workdir}",
        f"--output={tmp_path}/x.onnx",
        "--format=onnx",
    )
    assert refused.returncode == 2
    assert "has the detector fasterrcnn_se_resnet18_fpn" in refused.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--config.model.overrides.frozen=()", "--config.model.overrides.regions_drawn=256"),
        ("--config.model.overrides.zero_init=True", "--config.model.overrides.norm=True"),
    ],
)
def test_the_command_line_takes_fields_of_the_detector_and_its_trunk(run_command, options):
    config = "--config=configs/faster_rcnn_quickstart.py"
    accepted = run_command("tests.accepts", config, *options)
    assert accepted.returncode == 0, accepted.stderr
    refused = run_command("tests.accepts", config, "--config.model.overrides.nonesuch=1")
    assert 'has no field "nonesuch"' in refused.stderr


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("augment.mixup", 0.2, r"config.augment.mixup=0.2 has no effect on fasterrcnn"),
        ("dataset.name", "cifar10", "the images of cifar10 have no boxes"),
        ("dataset.long_side", 32, "short_side=64 must be at most"),
        ("model.overrides.frozen", ("stem",), "stem of the trunk would keep random weights"),
        ("model.name", "fasterrcnn_resnet51_fpn", "no .*resnet51"),
    ],
)
def test_a_config_that_no_detector_can_use_is_refused(field, value, message):
    config = small_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        check_config(config)


def test_fields_of_detectors_are_refused_for_other_networks():
    config = default_config()
    config.dataset.coco = "coco"
    with pytest.raises(UserError, match=r"config.dataset.coco='coco' has no effect on se_resnet20"):
        check_config(config)


def test_the_quickstart_is_valid():
    from configs.faster_rcnn_quickstart import get_config

    check_config(get_config())
    assert (ROOT / "configs" / "faster_rcnn_quickstart.py").is_file()


@pytest.mark.slow
def test_published_weights_are_evaluated_on_the_categories_that_they_have(
    tmp_path, workdir, images, monkeypatch
):
    folder = tmp_path / "coco"
    content = images.test.annotations.in_coco_format(images.test.categories)
    for entry in content["images"]:
        entry["file_name"] = f"{entry['id']}.png"
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        (folder / f"{split}.json").write_text(json.dumps(content))
        for i in range(len(images.test)):
            Image.fromarray(images.test[i]).save(folder / split / f"{i}.png")
    loaded = detection.load_run(workdir, "latest")
    monkeypatch.setattr(evaluate_module, "load_weights", lambda name, source: loaded)
    evaluated = evaluate_module.evaluate_weights("some", "file", folder, 2, tmp_path / "found")
    own = evaluate_workdir(workdir, "latest", dataset=images)
    assert evaluated["images"] == 6
    assert evaluated["AP"] == pytest.approx(own["AP"])
    fewer = dataclasses.replace(loaded, classes=loaded.classes[:-1])
    monkeypatch.setattr(evaluate_module, "load_weights", lambda name, source: fewer)
    with pytest.raises(UserError, match=r"have 4 classes, and the images in .* 5"):
        evaluate_module.evaluate_weights("some", "file", folder)
