import io

import numpy as np
import pytest
from PIL import Image

from se_flax.data.images import CenterCrop, RandomResizedCrop, decode


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
def test_a_center_crop_keeps_the_centre(size):
    # A gradient keeps its values when resized, so they show which part was kept.
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


def test_square_images_stay_square():
    for side in range(20, 120):
        image = np.zeros((side, side, 3), np.uint8)
        assert CenterCrop(32, 1.0)(image).shape == (32, 32, 3)


@pytest.mark.references
@pytest.mark.parametrize(
    "size", [(375, 500), (500, 375), (331, 224), (64, 64), (97, 301), (107, 321), (55, 55)]
)
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


def test_random_crops_have_the_requested_areas_shapes_and_positions():
    crop = RandomResizedCrop(32, area=(0.2, 0.6), aspect=(0.5, 2.0))
    draws = np.random.default_rng(0).random((4000, crop.draws)).tolist()
    boxes = np.array([crop.box(200, 300, row) for row in draws])
    top, left, height, width = boxes.T
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (200, 300)
    area = height * width / (200 * 300)
    assert 0.19 < area.min() < 0.21
    assert 0.58 < area.max() < 0.61
    aspect = np.log(width / height)
    assert abs(aspect).max() < np.log(2.05)
    # Uniform in area and in the logarithm of the aspect ratio, except for crops that do not fit.
    fits = area < 0.3
    np.testing.assert_allclose(np.quantile(aspect[fits], [0.25, 0.5, 0.75]) / np.log(2),
                               [-0.5, 0, 0.5], atol=0.1)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "expected"), [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))]
)
def test_if_no_box_fits_the_largest_central_one_is_used(shape, expected):
    crop = RandomResizedCrop(8, area=(0.9, 1.0))
    assert crop.box(*shape, [0.5] * crop.draws) == expected


def test_a_random_crop_is_cut_out_and_resized():
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 20:40] = 200
    crop = RandomResizedCrop(10, area=(0.25, 0.25), aspect=(1.0, 1.0))
    out = np.empty((10, 10, 3), np.uint8)
    assert crop(image, [0.0, 0.0, 0.5, 0.99] * 10, out) is not None
    np.testing.assert_array_equal(out, 200)


@pytest.mark.references
def test_random_crops_have_the_same_distribution_as_torchvisions():
    import torch

    from tests.references.torch_models import torchvision

    torch.manual_seed(0)
    get = torchvision.transforms.RandomResizedCrop.get_params
    image = torch.empty(3, 180, 240)
    theirs = np.array([get(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    crop = RandomResizedCrop(224)
    draws = np.random.default_rng(0).random((4000, crop.draws)).tolist()
    ours = np.array([crop.box(180, 240, row) for row in draws])
    for column in range(4):
        quantiles = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(
            np.quantile(ours[:, column], quantiles), np.quantile(theirs[:, column], quantiles),
            atol=10,
        )  # fmt: skip
