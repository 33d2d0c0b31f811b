import io

import numpy as np
import pytest
from PIL import Image

from se_flax.data.images import CenterCrop, decode


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
def test_images_of_every_mode_become_red_green_and_blue(mode):
    grey = Image.new("RGB", (7, 5), (120, 120, 120))
    image = decode(encoded(grey.convert(mode, palette=Image.Palette.ADAPTIVE), format="TIFF"))
    assert (image.shape, image.dtype) == ((5, 7, 3), np.uint8)
    np.testing.assert_allclose(image, 120, atol=2)


def test_arrays_of_one_channel_become_three():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    np.testing.assert_array_equal(decode(array), array.repeat(3, axis=2))


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (256, 256), (80, 90)])
def test_the_centre_is_cut_out(size):
    # A gradient keeps its values when resized: what is left tells which part it was.
    height, width = size
    row = np.linspace(0, 255, width)[None, :, None]
    column = np.linspace(0, 255, height)[:, None, None]
    image = np.broadcast_to(np.concatenate([row + 0 * column, 0 * row + column], 2), (*size, 2))
    image = np.concatenate([image, image[..., :1]], axis=2).astype(np.uint8)
    cropped = CenterCrop(64, 0.5)(image)
    assert cropped.shape == (64, 64, 3)
    part = 0.5 * 255 * min(size) / np.array([width, height])
    for channel, axis in ((0, 1), (1, 0)):
        ends = np.take(cropped[..., channel], [0, -1], axis=axis).astype(float)
        np.testing.assert_allclose(ends.mean(), 127.5, atol=2)
        np.testing.assert_allclose(np.diff(ends, axis=axis), part[channel], atol=5)


@pytest.mark.references
@pytest.mark.parametrize("size", [(375, 500), (500, 375), (331, 224), (64, 64), (97, 301)])
@pytest.mark.parametrize("crop", [0.875, 0.949, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_torchvisions_transforms(size, crop, interpolation):
    from tests.references.torch_models import torchvision

    transforms = torchvision.transforms
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = transforms.Compose(
        [
            transforms.Resize(int(224 / crop), transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(224),
        ]
    )(Image.fromarray(image))
    np.testing.assert_array_equal(CenterCrop(224, crop, interpolation)(image), expected)
