import functools
import http.server
import io
import os
import threading
import zipfile

import numpy as np
import pytest
import requests
from PIL import Image

from se_flax.data import load_dataset
from se_flax.data.images import decode
from se_flax.data.sources import TfdsImages
from se_flax.data.tiny_imagenet import prepare, words
from se_flax.errors import UserError

# Not sorted, as in the official wnids.txt.
WNIDS = ("n03", "n01", "n02")
WORDS = {"n01": "cat, true cat", "n02": "lemon", "n03": "cliff, drop, drop-off", "n04": "unused"}


def jpeg(seed, mode="RGB", size=64):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def official_layout():
    """File names and contents: 4 training images of each class and 5 to validate on, one grey."""
    root = "tiny-imagenet-200/"
    files = {
        f"{root}wnids.txt": "\n".join(WNIDS) + "\n",
        f"{root}words.txt": "".join(f"{wnid}\t{text}\n" for wnid, text in WORDS.items()),
        f"{root}test/images/test_0.JPEG": jpeg(99),
    }
    for label, wnid in enumerate(WNIDS):
        files[f"{root}train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t9\t9\n"
        for i in range(4):
            files[f"{root}train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(10 * label + i)
    annotations = ""
    for i in range(5):
        files[f"{root}val/images/val_{i}.JPEG"] = jpeg(50 + i, "L" if i == 3 else "RGB")
        annotations += f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t9\t9\n"
    files[f"{root}val/val_annotations.txt"] = annotations
    return files


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS folder with the little data set prepared, and the zip it is made of removed."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    archive = write_zip(folder / "downloads/manual/tiny-imagenet-200.zip", official_layout())
    prepare(data_dir=str(folder))
    archive.unlink()
    return str(folder)


def test_labels_follow_the_lines_of_wnids_txt_and_have_their_words(data_dir):
    source = TfdsImages("tiny_imagenet", "train", data_dir)
    assert source.class_names == WNIDS
    assert words(data_dir) == ("cliff, drop, drop-off", "cat, true cat", "lemon")
    assert len(source) == 12
    for record in (source[i] for i in range(12)):
        wnid = record["file_name"].decode().partition("_")[0]
        assert WNIDS[record["label"]] == wnid
        assert words(data_dir)[record["label"]] == WORDS[wnid]


def test_images_are_those_of_the_archive_and_grey_ones_become_rgb(data_dir):
    files = official_layout()
    source = TfdsImages("tiny_imagenet", "validation", data_dir)
    assert len(source) == 5
    for record in (source[i] for i in range(5)):
        name = record["file_name"].decode()
        assert record["image"] == files[f"tiny-imagenet-200/val/images/{name}"]
        assert record["label"] == int(name[4]) % 3
        image = decode(record["image"])
        assert image.shape == (64, 64, 3)
        assert (image[..., 0] == image[..., 2]).all() == (name == "val_3.JPEG")


def test_prepared_data_need_neither_this_package_nor_tensorflow(data_dir, run_python):
    program = f"""
import sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory("{data_dir}/tiny_imagenet/1.0.0")
print(builder.info.features["label"].names, builder.info.metadata["words"][1])
print({{record["image"].shape for record in builder.as_data_source("validation")}})
print("tensorflow" in sys.modules)
"""
    process = run_python("-c", program)
    expected = ["['n03', 'n01', 'n02'] cat, true cat", "{(64, 64, 3)}", "False"]
    assert process.stdout.splitlines() == expected, process.stderr


def test_a_class_without_words_is_called_by_its_wnid(tmp_path):
    files = official_layout()
    files["tiny-imagenet-200/words.txt"] = "n02\tlemon\n"
    prepare(write_zip(tmp_path / "any.zip", files), str(tmp_path))
    assert words(str(tmp_path)) == ("n03", "n01", "lemon")


def test_the_command_prepares_the_data_and_reports_place_and_size(tmp_path, run_python):
    archive = write_zip(tmp_path / "any.zip", official_layout())
    command = ("-m", "se_flax.data.tiny_imagenet", f"--zip={archive}", f"--data_dir={tmp_path}")
    process = run_python(*command)
    assert process.stdout.splitlines()[-1] == (
        "tiny_imagenet: 12 train images, 5 validation images of 3 classes, "
        f"in {tmp_path}/tiny_imagenet/1.0.0"
    ), process.stderr
    process = run_python(*command)
    assert process.returncode == 2
    assert "is already prepared" in process.stderr


def changed(name, content):
    files = official_layout()
    if content is None:
        del files[f"tiny-imagenet-200/{name}"]
    else:
        files[f"tiny-imagenet-200/{name}"] = content
    return files


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": "nothing"}, "has no wnids.txt"),
        (changed("words.txt", None), "has no tiny-imagenet-200/words.txt"),
        (changed("val/val_annotations.txt", "val_0.JPEG\tn01\n"), "no class for val_1.JPEG"),
        (
            changed("train/n09/images/n09_0.JPEG", jpeg(0)),
            "has the class n09, which is not in wnids.txt",
        ),
        (changed("train/n01/images/n01_0.JPEG", jpeg(0, size=32)), "JPEG of 64x64 pixels"),
        (changed("val/images/val_0.JPEG", b"no image"), r"val_0.JPEG is not an RGB or grey JPEG"),
        ({k: v for k, v in official_layout().items() if "/val_" not in k}, "val_annotations"),
        ({k: v for k, v in official_layout().items() if "/train/" not in k}, "no train images"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path, files, message):
    archive = write_zip(tmp_path / "any.zip", files)
    with pytest.raises(UserError, match=message) as error:
        prepare(archive, str(tmp_path))
    assert "\n" not in str(error.value)
    assert str(archive) in str(error.value)


def test_a_broken_or_missing_archive_is_reported(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", official_layout()).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half.zip is not a complete zip"):
        prepare(tmp_path / "half.zip", str(tmp_path))
    (tmp_path / "flipped.zip").write_bytes(whole.replace(b"val_3.JPEG\tn03", b"val_3.JPEG\tn01"))
    with pytest.raises(UserError, match=r"val_annotations.txt is damaged"):
        prepare(tmp_path / "flipped.zip", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no file .*none.zip"):
        prepare(tmp_path / "none.zip", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_without_zip_and_network_the_error_names_both_ways(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", no_network)
    with pytest.raises(UserError) as error:
        TfdsImages("tiny_imagenet", "validation", str(tmp_path))
    message = str(error.value)
    assert "python -m se_flax.data.tiny_imagenet" in message
    assert "--zip=" in message
    assert f"{tmp_path}/downloads/manual/tiny-imagenet-200.zip" in message
    assert "\n" not in message


def test_without_a_zip_it_is_downloaded(tmp_path, monkeypatch):
    write_zip(tmp_path / "site" / "tiny-imagenet-200.zip", official_layout())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tiny-imagenet-200.zip"
        monkeypatch.setattr("se_flax.data.tiny_imagenet.builder.URL", url)
        source = TfdsImages("tiny_imagenet", "train", str(tmp_path))
        server.shutdown()
    assert len(source) == 12


def test_it_is_streamed_not_loaded():
    with pytest.raises(UserError, match=r"can only be streamed, .* reads cifar10"):
        load_dataset("tiny_imagenet")


@pytest.mark.skipif("TINY_IMAGENET_ZIP" not in os.environ, reason="TINY_IMAGENET_ZIP is not set")
def test_the_official_archive_or_a_part_of_it_is_read(tmp_path):
    prepare(os.environ["TINY_IMAGENET_ZIP"], str(tmp_path))
    source = TfdsImages("tiny_imagenet", "train", str(tmp_path))
    called = dict(zip(source.class_names, words(str(tmp_path)), strict=True))
    assert called["n02124075"] == "Egyptian cat"
    # TFDS shuffled them.
    images = np.stack([decode(source[i]["image"]) for i in range(min(2000, len(source)))]) / 255
    np.testing.assert_allclose(images.mean((0, 1, 2)), (0.480, 0.448, 0.398), atol=0.02)
