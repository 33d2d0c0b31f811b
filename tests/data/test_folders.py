import io
import os
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from se_flax.data import folders
from se_flax.data.folders import ImageFolder
from se_flax.data.images import decode
from se_flax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("dog/b.JPEG", "dog/a.jpg", "cat/c.png", "cat/more/d.jpg", "cat/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_images_are_labelled_by_their_folder(folder):
    source = ImageFolder.of(folder)
    assert source.class_names == ("cat", "dog")
    assert [source[i] for i in range(len(source))] == [
        {"image": b"cat/c.png", "label": 0},
        {"image": b"cat/more/d.jpg", "label": 0},
        {"image": b"dog/a.jpg", "label": 1},
        {"image": b"dog/b.JPEG", "label": 1},
    ]


def test_classes_can_be_given_in_another_order(folder):
    source = ImageFolder.of(folder, ("dog", "bird", "cat"))
    assert [source[i]["label"] for i in range(len(source))] == [2, 2, 0, 0]
    with pytest.raises(
        UserError, match=r"folders of unknown classes: dog; .* known classes are cat"
    ):
        ImageFolder.of(folder, ("cat",))


def test_folders_without_images_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        ImageFolder.of(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no images; put them in .*/<class>/ with"):
        ImageFolder.of(folder / "cat" / "more")


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
JPEG = encoded(NOISE, format="JPEG")
PNG = encoded(NOISE, format="PNG")


def part(name, content):
    """A part of a PNG, with its length and its checksum."""
    checksum = zlib.crc32(name + content).to_bytes(4)
    return len(content).to_bytes(4) + name + content + checksum


# Its checksums are right, but its pixels are no compressed data.
SOUND_BUT_DAMAGED = PNG[:33] + part(b"IDAT", b"0" * 100) + part(b"IEND", b"")
DEEP = Image.fromarray(np.full((4, 4), 40_000, np.uint16))

BAD = {
    "truncated.jpg": JPEG[: len(JPEG) // 2],
    "truncated.png": PNG[: len(PNG) // 2],
    "empty.jpg": b"",
    "text.jpg": b"this is not an image",
    "header.jpg": JPEG[:30],
    "corrupt.png": PNG[:300] + b"0" * 300 + PNG[600:],
}
GOOD = {
    "fine.jpg": JPEG,
    "fine.png": PNG,
    "trailing.jpg": JPEG + b"0" * 500,
    "cmyk.jpg": encoded(NOISE.convert("CMYK"), format="JPEG"),
    "deep.png": encoded(DEEP, format="PNG"),
    "one.png": encoded(Image.new("RGB", (1, 1)), format="PNG"),
    "grey.jpg": encoded(NOISE.convert("L"), format="JPEG"),
    "fine.bmp": encoded(NOISE, format="BMP"),
    "fine.webp": encoded(NOISE, format="WEBP"),
}


@pytest.fixture
def mixed(tmp_path):
    for name, content in {**GOOD, **BAD}.items():
        (tmp_path / "class").mkdir(exist_ok=True)
        (tmp_path / "class" / name).write_bytes(content)
    (tmp_path / "nothing" / ".hidden").mkdir(parents=True)
    (tmp_path / "nothing" / "._mac.jpg").write_bytes(b"no image")
    return ImageFolder.of(tmp_path)


def test_bad_images_are_found_and_unusual_but_valid_ones_are_not(mixed):
    assert {mixed.paths[i].name for i, _ in mixed.bad_images()} == set(BAD)
    for i, path in enumerate(mixed.paths):
        if path.name in GOOD:
            image = decode(mixed[i]["image"])
            assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
        else:
            with pytest.raises(UserError):
                decode(mixed[i]["image"])


def test_images_of_16_bits_become_8_bits(tmp_path):
    np.testing.assert_array_equal(decode(GOOD["deep.png"]), 40_000 >> 8)


def test_bad_images_and_empty_classes_are_all_named(mixed):
    with pytest.raises(UserError) as error:
        mixed.checked(skip_bad=False)
    for name in BAD:
        assert f"{name} (" in str(error.value)
    assert "empty.jpg (empty)" in str(error.value)
    assert "/nothing has no images" in str(error.value)
    assert "config.dataset.skip_bad=True" in str(error.value)


def test_bad_images_can_be_left_out(mixed, capsys):
    kept = mixed.checked(skip_bad=True)
    assert {path.name for path in kept.paths} == set(GOOD)
    assert len(kept.labels) == len(GOOD)
    assert kept.class_names == ("class", "nothing")
    assert f"skipped {len(BAD)} of {len(BAD) + len(GOOD)} images" in capsys.readouterr().out


def test_a_listing_reads_each_folder_once_and_keeps_its_order(tmp_path, monkeypatch, capsys):
    names = ["b/x.jpg", "b/x/y.png", "b/x-1/z.tif", "b/.hidden/w.jpg", "a/2.gif", "a/10.gif"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scandir, read, said = os.scandir, [], []
    monkeypatch.setattr(folders.os, "scandir", lambda path: read.append(str(path)) or scandir(path))
    monkeypatch.setattr(folders, "say_detail", said.append)
    source = ImageFolder.of(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in source.paths]
    # A folder comes before files and folders whose names it begins, as paths are sorted.
    assert found == ["a/10.gif", "a/2.gif", "b/x/y.png", "b/x-1/z.tif", "b/x.jpg"]
    assert source.paths == tuple(sorted(source.paths))
    assert sorted(read) == sorted(set(read))
    assert not any(".hidden" in path for path in read)
    assert said[-1] == "5 images found"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_listing_of_many_files_takes_microseconds_for_each(tmp_path):
    (tmp_path / "class").mkdir()
    for i in range(30_000):
        (tmp_path / "class" / f"{i}.jpg").touch()
    begun = time.process_time()
    assert len(ImageFolder.of(tmp_path)) == 30_000
    assert (time.process_time() - begun) / 30_000 < 50e-6


def test_a_file_that_only_decoding_shows_to_be_damaged_passes_the_check(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "x.png").write_bytes(SOUND_BUT_DAMAGED)
    source = ImageFolder.of(tmp_path).checked(skip_bad=False)
    with pytest.raises(UserError, match="damaged"):
        decode(source[0]["image"])


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(JPEG)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    source = ImageFolder.of(tmp_path)
    with pytest.raises(UserError, match=r"/b cannot be read \(Permission denied\)"):
        source.checked(skip_bad=False)
