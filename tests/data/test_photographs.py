import io
import os

import numpy as np
import pytest
from PIL import Image

from se_flax.data.images import decode
from se_flax.data.photographs import find_photographs, read_photograph
from se_flax.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
PICTURE = Image.fromarray(NOISE)
GREY = Image.fromarray(NOISE[..., 0])
OPACITY = NOISE[..., 1]
WITH_ALPHA, GREY_WITH_ALPHA = PICTURE.convert("RGBA"), GREY.convert("LA")
WITH_ALPHA.putalpha(Image.fromarray(OPACITY))
GREY_WITH_ALPHA.putalpha(Image.fromarray(OPACITY))
PALETTE = PICTURE.quantize(16)

# How each EXIF orientation is stored, given the upright picture (EXIF 2.32, section 4.6.5).
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


def on_white(colours):
    share = OPACITY[..., None] / 255
    return np.round(share * colours + (1 - share) * 255)


def written(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, {}) for suffix in ("png", "bmp", "tif", "ppm", "jp2")),
        ("webp", {"lossless": True}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
def test_every_lossless_format_gives_the_same_pixels(tmp_path, suffix, options):
    path = written(tmp_path / f"x.{suffix}", PICTURE, **options)
    np.testing.assert_array_equal(read_photograph(path), NOISE)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif"])
@pytest.mark.parametrize("image", [GREY, PALETTE, GREY.convert("1")], ids=["L", "P", "1"])
def test_grey_levels_and_palettes_become_red_green_and_blue(tmp_path, suffix, image):
    path = written(tmp_path / f"x.{suffix}", image)
    np.testing.assert_array_equal(read_photograph(path), np.asarray(image.convert("RGB")))


def test_an_ordinary_jpeg_has_the_pixels_of_the_evaluations(tmp_path):
    for image in (PICTURE.resize((310, 240)), GREY.resize((310, 240))):
        path = written(tmp_path / "x.jpg", image)
        np.testing.assert_allclose(read_photograph(path), decode(path.read_bytes()), atol=1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparent_parts_are_put_on_white(tmp_path, suffix):
    path = written(tmp_path / f"x.{suffix}", WITH_ALPHA)
    np.testing.assert_allclose(read_photograph(path), on_white(NOISE), atol=1)
    path = written(tmp_path / f"grey.{suffix}", GREY_WITH_ALPHA)
    np.testing.assert_allclose(
        read_photograph(path), on_white(NOISE[..., :1].repeat(3, -1)), atol=1
    )


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_white(tmp_path, suffix):
    path = written(tmp_path / f"x.{suffix}", PALETTE, transparency=3)
    expected = np.array(PALETTE.convert("RGB"))
    expected[np.asarray(PALETTE) == 3] = 255
    np.testing.assert_array_equal(read_photograph(path), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_levels_of_16_bits_keep_their_range(tmp_path, suffix):
    deep = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    path = written(tmp_path / f"x.{suffix}", deep)
    np.testing.assert_array_equal(read_photograph(path), NOISE[..., :1].repeat(3, -1))


def test_cmyk_becomes_red_green_and_blue(tmp_path):
    smooth = PICTURE.resize((310, 240))
    path = written(tmp_path / "x.jpg", smooth.convert("CMYK"), quality=100)
    np.testing.assert_allclose(read_photograph(path), np.asarray(smooth), atol=4)


def test_the_first_image_of_an_animation_is_read(tmp_path):
    others = [Image.new("RGB", PICTURE.size, "blue")]
    path = written(tmp_path / "x.webp", PICTURE, save_all=True, append_images=others, lossless=True)
    np.testing.assert_array_equal(read_photograph(path), NOISE)
    path = written(tmp_path / "x.gif", PALETTE, save_all=True, append_images=others)
    np.testing.assert_array_equal(read_photograph(path), np.asarray(PALETTE.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_is_turned_upright(tmp_path, suffix, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](NOISE)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = written(tmp_path / f"x.{suffix}", stored, exif=exif, **options)
    np.testing.assert_array_equal(read_photograph(path), NOISE)


def encoded(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"text", "not an image, is damaged, or has a format that is not known"),
        (encoded(PICTURE, "PNG")[:300], "truncated"),
        (encoded(PICTURE.resize((310, 240)), "JPEG")[:3000], "truncated"),
        (encoded(Image.fromarray(-np.ones((4, 4), np.float32)), "TIFF"), "known to be white"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "convert it to JPEG or PNG"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_with_the_reason(tmp_path, content, fault, capfd):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=fault) as caught:
        read_photograph(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="No such file"):
        read_photograph(tmp_path / "nowhere.jpg")


def test_folders_are_searched_in_order_and_files_are_taken_as_they_are(tmp_path):
    for name in ("b/z.jpg", "b/a/y.TIFF", "a.png", "b/.c/x.png", "b/._w.jpg", "b/notes.txt", "raw"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    places = [tmp_path / "raw", str(tmp_path / "b"), tmp_path / "empty", tmp_path / "a.png"]
    found, useless = find_photographs(places)
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["raw", "b/a/y.TIFF", "b/z.jpg", "a.png"]
    assert useless == [(tmp_path / "empty", "it has no photographs")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_listed(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "locked").mkdir(mode=0)
    found, useless = find_photographs([tmp_path])
    assert found == [tmp_path / "a.png"]
    assert "locked cannot be read (Permission denied)" in useless[0][1]


def test_nothing_to_look_at_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"there is no file or folder .*nowhere"):
        find_photographs([tmp_path, tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"there are no photographs in .*; give files, or folders"):
        find_photographs([tmp_path])
