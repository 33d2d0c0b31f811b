"""Pillow's operations, which `se_flax.data.augment` must reproduce, and arguments for them."""

import functools

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

HEIGHT, WIDTH = 48, 64
FACTORS = [0.0, 0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72, 1.9, 5.14, 0.333, 0.949]
SHEARS = [0.0, 0.03, -0.12, 0.21, -0.27, 0.3, 0.84]
PIXELS = [0, 1, -9, 20, 47, -100, 250]


def affine(*matrix):
    def transform(image, argument):
        data = [argument if entry is None else entry for entry in matrix]
        fill = (128,) * len(image.getbands())
        return image.transform(image.size, Image.Transform.AFFINE, data, fillcolor=fill)

    return transform


def enhance(enhancer):
    return lambda image, factor: enhancer(image).enhance(factor)


def rotate(image, degrees):
    return image.rotate(degrees, fillcolor=(128,) * len(image.getbands()))


def posterize(image, bits):
    return ImageOps.posterize(image, int(bits)) if bits else image.point(lambda _: 0)


def solarize_add(image, addition):
    return image.point(lambda value: min(value + int(addition), 255) if value < 128 else value)


PILLOW = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": posterize,
    "solarize": ImageOps.solarize,
    "solarize_add": solarize_add,
    "brightness": enhance(ImageEnhance.Brightness),
    "contrast": enhance(ImageEnhance.Contrast),
    "color": enhance(ImageEnhance.Color),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": affine(1, None, 0, 0, 1, 0),
    "shear_y": affine(1, 0, 0, None, 1, 0),
    "translate_x": affine(1, 0, None, 0, 1, 0),
    "translate_y": affine(1, 0, 0, 0, 1, None),
    "rotate": rotate,
}

ARGUMENTS = {
    "auto_contrast": None,
    "equalize": None,
    "invert": None,
    "posterize": range(9),
    "solarize": [0, 1, 76, 128, 204, 255, 256, 700],
    "solarize_add": [0, 33, 77, 110, 300],
    "brightness": FACTORS,
    "contrast": FACTORS,
    "color": FACTORS,
    "sharpness": FACTORS,
    "shear_x": SHEARS,
    "shear_y": SHEARS,
    "translate_x": PIXELS,
    "translate_y": PIXELS,
    "rotate": [0, 3, -6, 12.5, 24, -27, 30, 84, 90, 180],
}


@functools.cache
def photograph():
    photo = Image.fromarray(load_sample_image("china.jpg"))
    return np.asarray(photo.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


def by_pillow(name, image, argument):
    pillow = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(PILLOW[name](pillow, argument)).reshape(image.shape)
