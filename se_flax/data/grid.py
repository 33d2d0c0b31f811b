"""Draws images in a grid, each with its class."""

import functools
import io
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from se_flax.data.dataset import ImageDataset, Inputs
from se_flax.data.preprocessing import Batch, Preprocessing

_SMALLEST = 96  # minimum height and width of a drawn image, in pixels
_CAPTION = 14  # height of a caption, in pixels


def png_of(image: Image.Image) -> bytes:
    """Returns an image encoded as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def first_images(own: Any, count: int) -> Any:
    """Returns the first images of a batch, given the share of each device."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], own)


def draw_inputs(
    dataset: ImageDataset, inputs: Inputs, batch_size: int, seed: int, step: int, count: int = 16
) -> Image.Image:
    """Draws the first training images of a step, before augmentation on the devices.

    Args:
        dataset: the data set.
        inputs: what its `train_feed` gives for the step.
        batch_size: total batch size of the run.
        seed: seed of the run.
        step: the step.
        count: largest number of images.
    """
    shared, own = inputs
    batch = jax.jit(functools.partial(dataset.train_batch, Preprocessing.of(dataset), batch_size))(
        shared, first_images(own, count), jnp.uint32(seed), jnp.int32(step)
    )
    images = np.asarray(batch.images) * np.array(dataset.std) + np.array(dataset.mean)
    return draw_grid(images, captions_of(batch, dataset.class_names), 8)


def draw_grid(
    images: Float[np.ndarray, "n h w c"], captions: list[str], columns: int
) -> Image.Image:
    """Draws images with values from 0 to 1 in a grid, each with a caption below."""
    height, width = images.shape[1:3]
    scale = max(1, math.ceil(_SMALLEST / min(height, width)))
    height, width = scale * height, scale * width
    rows = math.ceil(len(images) / columns)
    grid = Image.new("RGB", (columns * (width + 4), rows * (height + _CAPTION + 4)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(_CAPTION - 4)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = i % columns * (width + 4), i // columns * (height + _CAPTION + 4)
        pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        grid.paste(tile.resize((width, height), Image.Resampling.NEAREST), (x, y))
        while caption and draw.textlength(caption, font) > width:
            caption = caption[:-1]
        draw.text((x, y + height), caption, "black", font)
    return grid


def captions_of(batch: Batch, names: tuple[str, ...]) -> list[str]:
    """Returns each image's class or classes, of a mixed image those of both with percentages."""
    own = [_named(label, names) for label in np.asarray(batch.labels)]
    if batch.lam is None:
        return own
    others = [_named(label, names) for label in np.asarray(batch.mix_labels)]
    return [
        f"{100 * lam:.0f} {label}, {100 * (1 - lam):.0f} {other}"
        for label, other, lam in zip(own, others, np.asarray(batch.lam), strict=True)
    ]


def _named(label: Any, names: tuple[str, ...]) -> str:
    """Returns the name of an image's class, or of all its classes."""
    if np.ndim(label) == 0:
        return names[label]
    return "+".join(names[k] for k in np.flatnonzero(label)) or "none"
