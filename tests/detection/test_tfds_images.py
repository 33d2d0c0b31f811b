import numpy as np
import pytest

from se_flax.data import sources
from se_flax.detection.annotations import read_image
from se_flax.detection.tfds_images import TfdsBoxes
from se_flax.errors import UserError

# Top, left, bottom and right as fractions of an image of 40 x 80 pixels.
BOXES = np.array([[0.25, 0.125, 0.5, 0.25], [0, 0, 1, 1], [0.5, 0.5, 0.75, 0.625]])
IN_PIXELS = [[10, 10, 20, 20], [0, 0, 80, 40], [40, 20, 50, 30]]
IMAGE = np.full((40, 80, 3), 7, np.uint8)
COCO_OBJECTS = [
    {"id": 1 + i, "bbox": box, "label": label, "is_crowd": crowd, "area": area}
    for i, (box, label, crowd, area) in enumerate(
        zip(BOXES, (0, 11, 79), (False, True, False), (60, 3000, 99), strict=True)
    )
]
VOC_OBJECTS = [
    {"bbox": box, "label": i, "is_difficult": i == 1, "is_truncated": False, "pose": 0}
    for i, box in enumerate(BOXES)
]
EXAMPLES = {
    "coco/2017": [
        {"image": IMAGE, "image/filename": "a", "image/id": 42, "objects": COCO_OBJECTS},
        {"image": IMAGE, "image/filename": "b", "image/id": 17, "objects": []},
    ],
    "voc/2007": [
        {"image": IMAGE, "image/filename": "a", "objects": VOC_OBJECTS}
        | {"labels": [0, 1, 2], "labels_no_difficult": [0, 2]}
    ],
    "mnist": [{"image": np.zeros((28, 28, 1), np.uint8), "label": 3}],
}
pytestmark = pytest.mark.slow  # TFDS needs TensorFlow to prepare a data set


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS folder in which these data sets are prepared."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    for name, examples in EXAMPLES.items():
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        if "coco" in name:
            builder.info.features["objects"]["label"].names = [f"thing {i}" for i in range(80)]
        builder._split_generators = lambda *args, examples=examples, **kwargs: {
            "train": enumerate(examples)
        }
        builder.download_and_prepare()
    return str(folder)


def test_coco_has_its_own_numbers(data_dir):
    source = TfdsBoxes("coco/2017", "train", data_dir)
    order = [source.annotations.image_ids.index(each) for each in (42, 17)]
    annotations = source.annotations.of_images(order)
    assert annotations.sizes.tolist() == [[40, 80]] * 2
    boxes, labels = annotations.truth(0)
    np.testing.assert_array_equal(boxes, [IN_PIXELS[0], IN_PIXELS[2]])
    assert labels.tolist() == [1, 80]
    assert not len(annotations.truth(1)[0])
    assert annotations.crowds.tolist() == [False, True, False]
    truth = annotations.in_coco_format(source.categories)
    assert [each["category_id"] for each in truth["annotations"]] == [1, 13, 90]
    assert [each["area"] for each in truth["annotations"]] == [60, 3000, 99]
    assert truth["annotations"][2]["bbox"] == [40, 20, 10, 10]
    assert source.categories.num_classes == 81
    for i in range(2):
        np.testing.assert_allclose(read_image(source, i), IMAGE, atol=1)


def test_difficult_objects_are_treated_as_crowds(data_dir):
    source = TfdsBoxes("voc/2007", "train", data_dir)
    assert source.categories.ids == tuple(range(1, 21))
    assert source.categories.names[:2] == ("aeroplane", "bicycle")
    boxes, labels = source.annotations.truth(0)
    np.testing.assert_array_equal(boxes, [IN_PIXELS[0], IN_PIXELS[2]])
    assert labels.tolist() == [1, 3]
    assert source.annotations.crowds.tolist() == [False, True, False]
    assert source.annotations.areas.tolist() == [100, 3200, 100]
    assert source.describe(0) == "image 0 of voc/2007 train"


def test_boxes_are_read_once(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = TfdsBoxes("coco/2017", "train", data_dir).annotations
    assert "reading the boxes of 2 images of coco" in capsys.readouterr().out
    second = TfdsBoxes("coco/2017", "train", data_dir).annotations
    assert not capsys.readouterr().out
    assert first.image_ids == second.image_ids
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert len(TfdsBoxes("coco/2017", "train[:1]", data_dir).annotations) == 1


def test_other_data_sets_and_splits_are_refused(data_dir):
    with pytest.raises(UserError, match='"mnist" does not have images with boxes'):
        TfdsBoxes("mnist", "train", data_dir)
    with pytest.raises(UserError, match='"voc/2007" has no split "x"; its splits are train'):
        TfdsBoxes("voc/2007", "x", data_dir)


def test_records_that_can_only_be_read_in_order_are_refused(data_dir, monkeypatch):
    builder = sources.prepared_builder("voc/2007", data_dir)

    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(type(builder), "as_data_source", refuse)
    with pytest.raises(UserError, match='prepare it again with file_format="array_record"'):
        TfdsBoxes("voc/2007", "train", data_dir)
