import contextlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from se_flax.detection.annotations import Annotations, Categories
from se_flax.detection.average_precision import (
    METRICS,
    FoundInBatch,
    average_precision,
    check_pycocotools,
    results_of,
    write_results,
)
from se_flax.detection.batches import EvalFeed
from se_flax.detection.coco import read_annotations, read_coco
from se_flax.detection.heads import Detections
from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError
from tests.conftest import ROOT
from tests.detection.annotated import Pictures, joined

SAMPLE = ROOT.parent / "shared" / "data" / "samples" / "coco-sample.zip"
ONE_CLASS = Categories((1,), ("thing",))


def annotations_of(*rectangles):
    """Returns the annotations of an image, 9, with boxes of one class."""
    rectangles = np.array(rectangles, np.float64).reshape(-1, 4)
    count = len(rectangles)
    return Annotations(
        image_ids=(9,),
        sizes=np.array([[500, 500]]),
        starts=np.array([0, count]),
        rectangles=rectangles,
        areas=rectangles[:, 2:].prod(axis=1),
        labels=np.ones(count, np.int32),
        crowds=np.zeros(count, bool),
    )


def result(score, *bbox):
    return {"image_id": 9, "category_id": 1, "bbox": list(bbox), "score": score}


def test_average_precision_is_the_area_under_the_curve_of_precision_over_recall():
    boxes = annotations_of([10, 10, 100, 100], [200, 200, 100, 100])
    found = [
        result(0.9, 10, 10, 100, 100),  # precision 1, recall 1/2
        result(0.8, 400, 400, 50, 50),  # wrong
        result(0.7, 200, 200, 100, 100),  # precision 2/3, recall 1
    ]
    values = average_precision(found, boxes, ONE_CLASS)
    expected = (51 * 1 + 50 * 2 / 3) / 101  # at recalls of 0, 0.01, ... 1
    assert values["AP"] == pytest.approx(expected)
    assert values["AP50"] == values["AP75"] == pytest.approx(expected)
    assert values["AP_large"] == pytest.approx(1)  # the wrong one is of medium size
    assert np.isnan(values["AP_small"])
    assert np.isnan(values["AP_medium"])
    assert tuple(values) == METRICS


def test_the_overlap_decides_at_which_of_ten_thresholds_a_box_is_found():
    boxes = annotations_of([0, 0, 100, 50])
    values = average_precision([result(0.5, 0, 0, 100, 31)], boxes, ONE_CLASS)  # IoU 0.62
    assert values["AP"] == pytest.approx(3 / 10)  # 0.5, 0.55 and 0.6
    assert values["AP50"] == pytest.approx(1)
    assert values["AP75"] == 0


def test_a_box_that_is_found_twice_is_wrong_the_second_time():
    boxes = annotations_of([0, 0, 50, 50], [100, 100, 50, 50])
    found = [result(0.9, 0, 0, 50, 50), result(0.8, 1, 0, 50, 50), result(0.7, 100, 100, 50, 50)]
    values = average_precision(found, boxes, ONE_CLASS)
    assert values["AP_medium"] == values["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_nothing_found_is_0_and_nothing_to_find_is_not_a_number(capfd):
    assert average_precision([], annotations_of([0, 0, 50, 50]), ONE_CLASS)["AP"] == 0
    values = average_precision([result(0.9, 0, 0, 50, 50)], annotations_of(), ONE_CLASS)
    assert np.isnan(list(values.values())).all()
    assert capfd.readouterr() == ("", "")  # of pycocotools' progress


def detected(batch, source, perfect):
    """Returns detections in a batch: the true boxes, crowds included, or others near them."""
    generator = np.random.default_rng(0)
    found = [[], [], [], []]
    for size, place in zip(batch.sizes, batch.places.tolist(), strict=True):
        annotations = source.annotations
        rows = slice(annotations.starts[place], annotations.starts[place + 1])
        ratios = np.tile((size / annotations.sizes[place])[::-1], 2)
        boxes = np.concatenate([annotations.boxes[rows]] * 2)  # each is found twice
        labels = np.concatenate([annotations.labels[rows]] * 2)
        scores = np.linspace(1, 0.5, len(boxes))
        valid = np.arange(len(boxes)) < len(boxes) // 2
        if not perfect:
            sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            boxes = boxes + generator.normal(0, 0.1, boxes.shape) * sides
            wrong = generator.uniform(size=len(labels)) < 0.1
            labels = np.where(wrong, 1, labels)
            scores, valid = generator.uniform(size=len(boxes)), np.ones(len(boxes), bool)
        padding = [(0, 200 - len(boxes))]
        for rest, each in zip(found, (boxes * ratios, scores, labels, valid), strict=True):
            rest.append(np.pad(each, padding + [(0, 0)] * (each.ndim - 1)))
    boxes, scores, labels, valid = map(np.stack, found)
    found = Detections(boxes.astype(np.float32), scores.astype(np.float32), labels, valid)
    return FoundInBatch(batch.places, batch.sizes, batch.mask, found)


def all_results(source, perfect=False):
    results = []
    for _, own in EvalFeed(source, Sizes(160, 266), 4):
        batch = joined(own)
        results += results_of(source, detected(batch, source, perfect))
    return results


def by_pycocotools(file, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(file)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


@pytest.fixture
def crowded(tmp_path):
    """An annotation file of 30 images with few boxes, of which some are around crowds."""
    source = Pictures([(300, 400), (200, 90), (100, 100)] * 10, least=0, most=8)
    content = source.annotations.in_coco_format(source.categories)
    for i, entry in enumerate(content["annotations"]):
        entry["iscrowd"] = int(i % 5 == 0)
        entry["area"] *= 0.7  # of an outline inside the box
    for i, entry in enumerate(content["images"]):
        entry["file_name"] = f"{i}.png"
        shape = (entry["height"], entry["width"])
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / entry["file_name"])
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def test_values_equal_those_of_pycocotools_for_the_same_detections_crowds_included(crowded):
    source = read_annotations(crowded, crowded.parent)
    assert source.annotations.crowds.sum() > 10
    results = all_results(source)
    found = average_precision(results, source.annotations, source.categories)
    write_results(results, crowded.parent / "results.json")
    expected = by_pycocotools(crowded, str(crowded.parent / "results.json"))
    assert list(found.values()) == expected.tolist()
    assert (expected > 0.05).all()
    assert (expected < 0.9).all()


def test_crowds_make_a_difference(crowded):
    source = read_annotations(crowded, crowded.parent)
    results = all_results(source)
    with_crowds = average_precision(results, source.annotations, source.categories)
    source.annotations.crowds[:] = False
    assert with_crowds != average_precision(results, source.annotations, source.categories)


def test_detections_that_are_the_true_boxes_have_a_precision_of_1(crowded):
    source = read_annotations(crowded, crowded.parent)
    results = all_results(source, perfect=True)
    values = average_precision(results, source.annotations, source.categories)
    np.testing.assert_allclose(list(values.values()), 1)


def test_results_are_in_pixels_of_the_image_and_have_its_own_numbers():
    source = Pictures([(80, 160), (40, 40)])
    ((_, own),) = EvalFeed(source, Sizes(32, 64, ()), 3)
    batch = joined(own)
    assert batch.mask.tolist() == [True, True]
    np.testing.assert_array_equal(batch.places, [0, 1])
    boxes = np.array([[[8, 4, 16, 8], [1, 1, 2, 2]], [[8, 4, 16, 8], [0, 0, 32, 32]]], np.float32)
    scores = np.array([[0.5, 0.0], [0.75, 0.25]], np.float32)
    labels, valid = np.array([[2, 0], [3, 1]]), np.array([[True, False], [True, True]])
    expected = [
        {"image_id": 100, "category_id": 5, "bbox": [20.0, 10.0, 20.0, 10.0], "score": 0.5},
        {"image_id": 101, "category_id": 8, "bbox": [10.0, 5.0, 10.0, 5.0], "score": 0.75},
        {"image_id": 101, "category_id": 3, "bbox": [0.0, 0.0, 40.0, 40.0], "score": 0.25},
    ]
    found = Detections(boxes, scores, labels, valid)
    found = FoundInBatch(batch.places, batch.sizes, batch.mask, found)
    assert results_of(source, found) == expected
    found = found._replace(mask=np.array([True, False]))
    assert results_of(source, found) == expected[:1]


def test_results_for_other_images_are_refused():
    with pytest.raises(UserError, match="a result for image 9, which is not among the 2 evaluated"):
        average_precision([result(1, 0, 0, 1, 1)], Pictures([(9, 9)] * 2).annotations, ONE_CLASS)


def test_without_pycocotools_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "pycocotools.cocoeval")
    with pytest.raises(UserError, match=r'pip install "se_flax\[detection\]"') as error:
        check_pycocotools()
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason="needs a sample of COCO")
def test_values_equal_those_of_pycocotools_for_a_sample_of_coco(tmp_path):
    with zipfile.ZipFile(SAMPLE) as file:
        file.extractall(tmp_path)
    for source in read_coco(tmp_path):
        split = source.folder.name
        for perfect in (False, True):
            results = all_results(source, perfect)
            values = average_precision(results, source.annotations, source.categories)
            annotations = tmp_path / "annotations" / f"instances_{split}.json"
            expected = by_pycocotools(annotations, results)
            assert list(values.values()) == expected.tolist()
            assert not perfect or values["AP"] == pytest.approx(1)
