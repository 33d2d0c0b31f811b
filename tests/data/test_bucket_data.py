"""Images, data sets and weights in Google Cloud Storage."""

import pathlib

import numpy as np
import pytest

from se_flax.data import load_dataset
from se_flax.data.folders import ImageFolder
from se_flax.data.from_config import dataset_of
from se_flax.data.photographs import find_photographs, read_photograph
from se_flax.data.sources import TfdsImages
from se_flax.errors import UserError
from se_flax.pretrained.described import description, stated_architecture
from se_flax.pretrained.load import read_tensors
from se_flax.runtime import paths
from se_flax.runtime.paths import local_copy, read_bytes
from tests import test_torch_file as torch_file
from tests import tiny_run


def upload(folder, target):
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache of files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_of_images_in_a_bucket_is_that_on_the_disk(bucket, image_dir):
    upload(image_dir, bucket)
    (bucket / "train" / ".hidden" / "x.jpg").write_bytes(b"")
    (bucket / "train" / "red" / ".thumbnails" / "x.jpg").write_bytes(b"")
    there, here = ImageFolder.of(f"{bucket}/train"), ImageFolder.of(image_dir / "train")
    assert (there.class_names, there.labels) == (here.class_names, here.labels)
    assert not list(there.bad_images())
    for i in range(len(here)):
        assert there[i] == here[i]
    assert there.describe(0) == f"{bucket}/train/blue/00.jpg"


def test_bad_images_in_a_bucket_are_found(bucket, image_dir):
    upload(image_dir / "train", bucket)
    good = read_bytes(bucket / "red" / "02.jpg")
    for name, content in (("empty", b""), ("cut", good[:-50]), ("text", b"hello")):
        (bucket / "red" / f"{name}.jpg").write_bytes(content)
    folder = ImageFolder.of(bucket)
    faults = {folder.paths[i].stem: fault for i, fault in folder.bad_images()}
    assert set(faults) == {"empty", "cut", "text"}
    assert faults["empty"] == "empty"


def test_a_folder_that_is_not_in_the_bucket_is_reported(bucket):
    with pytest.raises(UserError, match=f"there is no folder {bucket}/none; give one with"):
        ImageFolder.of(bucket / "none")


def test_a_run_streams_the_same_images_from_a_bucket(bucket, image_dir):
    upload(image_dir, bucket)
    config = tiny_run.get_config()
    tiny_run.stream(config, image_dir)
    here = dataset_of(config)
    config.dataset.image_dir = str(bucket)
    there = dataset_of(config)
    assert there.name == bucket.name
    for (x, label), (y, other) in zip(
        here.host_images("test", 4), there.host_images("test", 4), strict=True
    ):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(label, other)


def test_a_tfds_data_set_is_read_from_a_bucket(bucket, tfds_dir, own_cache):
    upload(pathlib.Path(tfds_dir) / "cifar10", bucket / "cifar10")
    there, here = (load_dataset("cifar10", str(place)) for place in (bucket, tfds_dir))
    np.testing.assert_array_equal(there.train.images, here.train.images)
    np.testing.assert_array_equal(there.test.labels, here.test.labels)
    assert there.class_names == here.class_names
    streamed = TfdsImages("cifar10", "test", str(bucket))
    assert streamed[3] == TfdsImages("cifar10", "test", tfds_dir)[3]


def test_a_tfds_data_set_that_is_not_in_the_bucket_is_reported(bucket):
    with pytest.raises(UserError, match=r"is not prepared in gs://.* gcloud storage cp -r"):
        load_dataset("cifar10", str(bucket))


def test_a_file_is_copied_once_for_each_content(bucket, own_cache, capsys):
    (bucket / "net.bin").write_bytes(b"one")
    first = local_copy(bucket / "net.bin")
    assert (first.read_bytes(), first.name) == (b"one", "net.bin")
    assert local_copy(bucket / "net.bin") == first
    assert capsys.readouterr().out.count("copying") == 1
    (bucket / "net.bin").write_bytes(b"two")
    assert local_copy(bucket / "net.bin").read_bytes() == b"two"
    with pytest.raises(FileNotFoundError):
        local_copy(bucket / "none.bin")


def test_weights_are_read_from_a_bucket(bucket, own_cache):
    content = torch_file.mapping(a=torch_file.tensor((6,), (1,)))
    file = torch_file.zip_file(content, {"7": torch_file.NUMBERS})
    (bucket / "weights.pth").write_bytes(file)
    tensors = read_tensors(f"{bucket}/weights.pth")
    np.testing.assert_array_equal(tensors["a"], torch_file.NUMBERS)
    assert description(f"{bucket}/weights.pth") == {}
    (bucket / "config.json").write_text('{"architecture": "resnet18"}')
    assert stated_architecture(f"{bucket}/weights.pth") == "resnet18"
    with pytest.raises(UserError, match=f"there is no file {bucket}/other.pth"):
        read_tensors(f"{bucket}/other.pth")


def test_a_copy_for_which_there_is_no_room_is_refused(bucket, own_cache, monkeypatch):
    (bucket / "net.bin").write_bytes(b"one")
    monkeypatch.setattr(
        paths.shutil, "disk_usage", lambda _: paths.shutil._ntuple_diskusage(9, 7, 2)
    )
    with pytest.raises(UserError, match=r"where there is room for 0\.0 GB; set XDG_CACHE_HOME"):
        local_copy(bucket / "net.bin")
    assert not list(own_cache.rglob("net.bin*"))


def test_photographs_in_a_bucket_are_those_on_the_disk(bucket, image_dir):
    upload(image_dir / "val", bucket)
    there, _ = find_photographs([f"{bucket}/red", bucket / "blue"])
    here, _ = find_photographs([image_dir / "val" / "red", image_dir / "val" / "blue"])
    assert [path.name for path in there] == [path.name for path in here]
    np.testing.assert_array_equal(read_photograph(there[-1]), read_photograph(here[-1]))
