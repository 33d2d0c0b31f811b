import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from se_flax.detection.annotations import Categories, read_image, with_boxes
from se_flax.detection.coco import read_annotations, read_coco
from se_flax.errors import UserError
from tests.conftest import ROOT

SAMPLE = ROOT.parent / "shared" / "data" / "samples" / "coco-sample.zip"


def annotation(image, category, bbox, **fields):
    return {"image_id": image, "category_id": category, "bbox": bbox, **fields}


CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
        {"id": 3, "file_name": "b.png", "height": 10, "width": 10},
        {"id": 5, "file_name": "c.png", "height": 40, "width": 20},
        {"id": 9, "file_name": "d.png", "height": 10, "width": 10},
    ],
    "annotations": [
        annotation(5, 4, [1, 2, 3, 4], id=11, area=7.5, iscrowd=0),
        annotation(7, 2, [25, 5, 10, 10], id=0),  # over the border
        annotation(5, 2, [0, 0, 20, 40], iscrowd=1),
        annotation(7, 4, [3, 3, 0, 5]),  # no width
        annotation(7, 4, [30, 0, 5, 5]),  # outside
        annotation(7, 4, [0, 0, 2.5, 3.5]),
        annotation(9, 4, [1, 1, 5, 5], iscrowd=1),
    ],
    "categories": [{"id": 4, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def changed(key, i, **fields):
    """Returns the content with changed fields of an entry."""
    content = json.loads(json.dumps(CONTENT))
    content[key][i].update(fields)
    return content


def write(folder, content=CONTENT, name="train2017"):
    """Writes COCO's layout."""
    (folder / "annotations").mkdir(exist_ok=True, parents=True)
    (folder / name).mkdir(exist_ok=True)
    file = folder / "annotations" / f"instances_{name}.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for i, entry in enumerate(CONTENT["images"]):
        image = np.full((entry["height"], entry["width"], 3), 50 * i, np.uint8)
        Image.fromarray(image).save(folder / name / entry["file_name"])
    return file


@pytest.fixture
def folder(tmp_path):
    for name in ("train2017", "val2017"):
        write(tmp_path, name=name)
    return tmp_path


def test_boxes_are_those_of_their_image_in_pixels(folder):
    train, val = read_coco(folder)
    assert train.categories == val.categories == Categories((2, 4), ("dog", "cat"))
    assert train.categories.num_classes == 3
    boxes, labels = train.annotations.truth(0)
    np.testing.assert_array_equal(boxes, [[25, 5, 30, 15], [0, 0, 2.5, 3.5]])
    assert boxes.dtype == np.float32
    assert labels.tolist() == [1, 2]
    boxes, labels = train.annotations.truth(2)
    np.testing.assert_array_equal(boxes, [[1, 2, 4, 6]])
    assert labels.tolist() == [2]


def test_images_are_read_in_the_order_of_the_file(folder):
    _, val = read_coco(folder)
    assert val.annotations.image_ids == (7, 3, 5, 9)
    for i in range(4):
        image = read_image(val, i)
        assert image.shape[:2] == tuple(val.annotations.sizes[i])
        assert (image == 50 * i).all()
    assert val.describe(2) == str(folder / "val2017" / "c.png")


def test_crowds_and_empty_images_are_not_trained_on_but_kept_for_evaluation(folder):
    train, val = read_coco(folder)
    kept = with_boxes(train)
    assert kept.annotations.image_ids == (7, 5)
    np.testing.assert_array_equal(kept.annotations.truth(1)[0], train.annotations.truth(2)[0])
    assert (read_image(kept, 1) == 100).all()
    assert kept.describe(1) == train.describe(2)
    truth = val.annotations.in_coco_format(val.categories)
    assert [each["id"] for each in truth["images"]] == [7, 3, 5, 9]
    assert len(truth["annotations"]) == 7


def test_what_is_left_out_is_counted(folder):
    counts = read_coco(folder)[0].annotations.counts()
    assert counts == (4, 2, 3, 2, 1, 2)
    assert "2 crowds, 2 boxes without width or height" in str(counts)


def test_evaluation_gets_what_was_annotated(folder):
    train, _ = read_coco(folder)
    truth = train.annotations.in_coco_format(train.categories)
    assert truth["categories"] == [{"id": 2, "name": "dog"}, {"id": 4, "name": "cat"}]
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    found = {tuple(map(str, (each[key] for key in keys))) for each in truth["annotations"]}
    expected = set()
    for each in CONTENT["annotations"]:
        bbox = [float(x) for x in each["bbox"]]
        area = each.get("area", bbox[2] * bbox[3])
        values = (each["image_id"], each["category_id"], bbox, area, each.get("iscrowd", 0))
        expected.add(tuple(map(str, values)))
    assert found == expected
    assert min(each["id"] for each in truth["annotations"]) == 1


def test_classes_can_be_numbered_by_their_ids(folder):
    train, _ = read_coco(folder, by_id=True)
    assert train.categories.ids == (1, 2, 3, 4)
    assert train.categories.names == ("", "dog", "", "cat")
    assert train.annotations.truth(0)[1].tolist() == [2, 4]
    truth = train.annotations.in_coco_format(train.categories)
    assert [each["id"] for each in truth["categories"]] == [2, 4]
    assert {each["category_id"] for each in truth["annotations"]} == {2, 4}


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_{}2014.json", "images/{}2014"),
        ("annotations/{}.json", "images"),
        ("{}.json", "{}"),
        ("{}.json", "."),
        ("{}/_annotations.coco.json", "{}"),
    ],
)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_other_layouts_are_read(tmp_path, file, images, val):
    for name in ("train", val):
        target = write(tmp_path / name, name="x")
        moved = tmp_path / "all" / file.format(name)
        moved.parent.mkdir(exist_ok=True, parents=True)
        target.rename(moved)
        folder = tmp_path / "all" / images.format(name)
        folder.mkdir(exist_ok=True, parents=True)
        for image in (tmp_path / name / "x").iterdir():
            image.rename(folder / image.name)
    for source in read_coco(tmp_path / "all"):
        assert read_image(source, 3).shape == (10, 10, 3)


def test_a_folder_in_a_bucket_is_read(folder, bucket):
    for path in folder.rglob("*.*"):
        target = bucket / path.relative_to(folder)
        target.write_bytes(path.read_bytes())
    for source, local in zip(read_coco(str(bucket)), read_coco(folder), strict=True):
        assert source.describe(1).startswith("gs://")
        np.testing.assert_array_equal(source.annotations.boxes, local.annotations.boxes)
        np.testing.assert_array_equal(read_image(source, 1), read_image(local, 1))
    (bucket / "val2017" / "c.png").unlink()
    with pytest.raises(UserError, match=r"gs://.*c.png, which does not exist"):
        read_coco(str(bucket))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "lists named images, annotations, categories"),
        ({**CONTENT, "annotations": None}, "lists named images, annotations, categories"),
        ({**CONTENT, "images": []}, "lists no images"),
        ({**CONTENT, "categories": []}, "must list categories"),
        (changed("annotations", 1, image_id=8), "annotation 0 .* is of image 8, which"),
        (changed("annotations", 0, category_id=3), "annotation 11 .* is of category 3, which"),
        (changed("annotations", 0, bbox=[1, 2, 3]), r"annotation 11 .* has the bbox \[1, 2, 3\]"),
        (changed("annotations", 0, bbox=[1, 2, float("nan"), 3]), "annotation 11 .* the bbox"),
        (changed("annotations", 0, bbox=None), "an entry of .* is wrong"),
        ({**CONTENT, "annotations": [{"image_id": 7}]}, "an entry of .* has no 'category_id'"),
        (changed("images", 1, id=7), "gives several images the same id"),
        (changed("images", 1, height=0), r"gives image 3 the height and width \(0, 10\)"),
        (changed("images", 1, file_name="x.png"), "x.png, which does not exist"),
        (changed("images", 1, file_name="y/x.png"), "y/x.png, which does not exist"),
        (changed("images", 0, file_name="x.png"), "x.png, which is not in .*train2017"),
        (changed("categories", 0, id="4"), "a whole number of its own"),
        (changed("categories", 0, name="cow"), "have different categories"),
    ],
)
def test_bad_annotations_are_refused_in_a_sentence(tmp_path, content, message):
    write(tmp_path, name="val2017")
    write(tmp_path, content, name="train2017")
    with pytest.raises(UserError, match=message) as error:
        read_coco(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_and_doubtful_files_are_refused(folder):
    with pytest.raises(UserError, match="there is no folder"):
        read_coco(folder / "x")
    with pytest.raises(UserError, match="there is no file"):
        read_annotations(folder / "x.json", folder)
    (folder / "annotations" / "instances_train2014.json").touch()
    with pytest.raises(UserError, match="several files with train annotations: annotations/inst"):
        read_coco(folder)
    for file in (folder / "annotations").glob("*train*"):
        file.unlink()
    with pytest.raises(UserError, match="no file with train annotations"):
        read_coco(folder)


def test_an_image_that_was_not_annotated_is_refused(folder):
    train, _ = read_coco(folder)
    Image.new("RGB", (10, 11)).save(folder / "train2017" / "b.png")
    with pytest.raises(UserError, match=r"b.png has 11 x 10 pixels, but .* 10 x 10"):
        read_image(train, 1)
    (folder / "train2017" / "c.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"c.png: it is empty"):
        read_image(train, 2)
    (folder / "train2017" / "d.png").unlink()
    with pytest.raises(OSError, match=r"d.png: No such file .* the same command continues"):
        read_image(train, 3)


def test_training_images_without_any_box_are_refused(tmp_path):
    for name in ("train2017", "val2017"):
        write(tmp_path, {**CONTENT, "annotations": []}, name)
    train, _ = read_coco(tmp_path)
    with pytest.raises(UserError, match="none of the 4 training images has a box"):
        with_boxes(train)


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs a sample of COCO")
def test_a_sample_of_coco_is_read_as_its_readme_counts_it(tmp_path):
    with zipfile.ZipFile(SAMPLE) as file:
        file.extractall(tmp_path)
    train, val = read_coco(tmp_path)
    assert train.categories.num_classes == 81
    counts, others = train.annotations.counts(), val.annotations.counts()
    assert (counts.images, counts.boxes + counts.crowds, counts.crowds) == (40, 270, 1)
    assert (others.images, others.boxes, others.crowds) == (40, 207, 0)
    assert len(set(train.annotations.labels)) == 60
    for source in (train, val):
        for i in range(len(source)):
            read_image(source, i)
