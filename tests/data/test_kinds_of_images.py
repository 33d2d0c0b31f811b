"""Images of every kind are read as Pillow reads them, and deep ones are scaled to 8 bits."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from se_flax.data.folders import SUFFIXES, ImageFolder
from se_flax.data.images import decode
from se_flax.data.photographs import read_photograph
from se_flax.data.streaming import host_images
from se_flax.errors import UserError
from tests.data.test_photographs import STORED

NOISE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
PICTURE = Image.fromarray(NOISE)
OPACITY = Image.fromarray(NOISE[..., 1])
GREY = Image.fromarray(NOISE[..., 0])


def with_opacity(image, mode):
    image = image.convert(mode)
    image.putalpha(OPACITY)
    return image


MODES = {
    "RGB": PICTURE,
    "L": GREY,
    "1": GREY.convert("1"),
    "P": PICTURE.quantize(16),
    "RGBA": with_opacity(PICTURE, "RGBA"),
    "LA": with_opacity(GREY, "LA"),
    "CMYK": PICTURE.convert("CMYK"),
}
LOSSLESS = {
    "png": ("RGB", "L", "1", "P", "RGBA", "LA"),
    "tif": ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK"),
    "bmp": ("RGB", "L", "1", "P"),
    "gif": ("L", "1", "P"),
    "webp": ("RGB", "RGBA"),
    "jp2": ("RGB", "L"),
    "ppm": ("RGB",),
    "pgm": ("L",),
}


def encoded(image, suffix, **options):
    buffer = io.BytesIO()
    options = {"lossless": True, **options} if suffix == "webp" else options
    form = Image.registered_extensions()[f".{suffix}"]
    image.save(buffer, form, **options)
    return buffer.getvalue()


def as_pillow_reads(content):
    """What torchvision's ImageFolder makes of a file."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in LOSSLESS.items() for mode in modes]
)
def test_an_image_of_a_data_set_has_the_pixels_that_pillow_converts_to_rgb(suffix, mode):
    content = encoded(MODES[mode], suffix)
    np.testing.assert_array_equal(decode(content), as_pillow_reads(content))
    if mode in ("RGB", "RGBA"):  # transparency is dropped, and not put on any colour
        visible = NOISE if mode == "RGB" or suffix != "webp" else as_pillow_reads(content)
        np.testing.assert_array_equal(decode(content), visible)


def test_a_transparent_colour_of_a_palette_keeps_its_colour():
    for suffix in ("png", "gif"):
        content = encoded(MODES["P"], suffix, transparency=3)
        np.testing.assert_array_equal(decode(content), np.asarray(MODES["P"].convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("suffix", ["jpg", "avif"])
def test_lossy_formats_differ_from_pillow_by_less_than_can_be_seen(suffix, mode):
    if (suffix, mode) == ("avif", "CMYK"):
        pytest.skip("there is no such AVIF")
    content = encoded(MODES[mode].resize((310, 240)), suffix, quality=95)
    difference = decode(content).astype(int) - as_pillow_reads(content)
    assert abs(difference).max() <= (8 if mode == "CMYK" else 3)


# Every level of 16 bits that is a multiple of 255, which both ends are.
LEVELS = np.arange(0, 65536, 255, dtype=np.uint16)[:257].reshape(1, 257)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("read", [decode, read_photograph])
def test_grey_levels_of_16_bits_are_divided_by_256_and_not_clipped(tmp_path, suffix, read):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(LEVELS).save(path)
    image = read(path.read_bytes() if read is decode else path)
    np.testing.assert_array_equal(image[..., 0], LEVELS // 256)
    np.testing.assert_array_equal(image[..., 1:], image[..., :2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),  # shares of white
        ([0.0, 1.4, 254.6], [0, 1, 255]),  # levels of 8 bits
        ([0.0, 256.0, 65535.0], [0, 1, 255]),  # levels of 16 bits
    ],
)
def test_real_numbers_are_scaled_by_what_they_can_only_be(tmp_path, values, expected):
    path = tmp_path / "x.tif"
    Image.fromarray(np.float32([values])).save(path)
    for image in (decode(path.read_bytes()), read_photograph(path)):
        np.testing.assert_array_equal(image, np.uint8(expected)[None, :, None].repeat(3, -1))


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 1e6], [0.0, np.nan]])
def test_real_numbers_that_could_be_anything_are_refused(values):
    content = encoded(Image.fromarray(np.float32([values])), "tif")
    with pytest.raises(UserError, match=r"its grey levels run from .* save them from 0 to 1"):
        decode(content)


def test_the_first_image_of_an_animation_is_taken():
    others = [Image.new("RGB", PICTURE.size, "blue")]
    content = encoded(PICTURE, "webp", save_all=True, append_images=others)
    np.testing.assert_array_equal(decode(content), NOISE)
    content = encoded(MODES["P"], "gif", save_all=True, append_images=others)
    np.testing.assert_array_equal(decode(content), np.asarray(MODES["P"].convert("RGB")))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_exif_orientation_is_ignored_unless_it_is_asked_for(suffix, orientation):
    stored = np.ascontiguousarray(STORED[orientation](NOISE))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(stored), suffix, exif=exif)
    image = Image.open(io.BytesIO(content))
    atol = 3 if suffix == "jpg" else 0
    np.testing.assert_allclose(decode(content), np.asarray(image.convert("RGB")), atol=atol)
    upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_allclose(decode(content, upright=True), upright, atol=atol)
    assert decode(content, upright=True).shape == NOISE.shape
    if suffix != "jpg":
        np.testing.assert_array_equal(upright, NOISE)


def test_a_tiff_is_always_turned_upright_because_pillow_does():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(np.ascontiguousarray(STORED[6](NOISE))), "tif", exif=exif)
    for upright in (False, True):
        np.testing.assert_array_equal(decode(content, upright), NOISE)
    np.testing.assert_array_equal(as_pillow_reads(content), NOISE)


def test_a_folder_of_every_kind_is_listed_and_read(tmp_path):
    from se_flax.data.images import CenterCrop

    (tmp_path / "class").mkdir()
    for suffix in SUFFIXES:
        image = GREY if suffix == ".pgm" else PICTURE
        image.save(tmp_path / "class" / f"x{suffix}")
    source = ImageFolder.of(tmp_path).checked(skip_bad=False)
    assert {path.suffix for path in source.paths} == set(SUFFIXES)
    ((images, labels),) = host_images(source, CenterCrop(16), batch_size=100)
    assert images.shape == (len(SUFFIXES), 16, 16, 3)
    assert labels.tolist() == [0] * len(SUFFIXES)


def test_a_folder_says_with_each_image_whether_to_turn_it(tmp_path, image_dir):
    assert "upright" not in ImageFolder.of(image_dir / "val")[0]
    assert ImageFolder.of(image_dir / "val", exif_orientation=True)[0]["upright"]
