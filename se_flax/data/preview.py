"""Draws a network's input images.

python -m se_flax.data.preview --config=configs/quickstart.py
"""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from se_flax.cli.command import parse_flags, run_command
from se_flax.cli.config_flag import define_config_flag
from se_flax.config import check_config, check_devices
from se_flax.data.dataset import ImageDataset
from se_flax.data.preprocessing import Batch, Preprocessing
from se_flax.errors import UserError
from se_flax.main import config_of_flags
from se_flax.program import dataset_of_run, with_preparation

_SMALLEST = 96  # minimum height and width of a drawn image, in pixels
_CAPTION = 14  # height of a caption, in pixels


def preview_batch(
    config: ConfigDict, step: int, count: int, train: bool
) -> tuple[Batch, ImageDataset]:
    """Returns the first images of a step's batch or of the test split, preprocessed.

    Args:
        config: config of the run.
        step: step of the run.
        count: number of images; even, because mixing works on pairs.
        train: whether to return augmented training images; otherwise test images.
    """
    dataset = dataset_of_run(with_preparation(config))
    preprocessing = Preprocessing.of(dataset, config.augment)
    if not train:
        shared, own = next(iter(dataset.eval_feed("test", count)))
        batch = dataset.eval_batch(preprocessing, shared, _first(own, count))
        return jax.tree.map(lambda x: x[np.asarray(batch.mask)], batch), dataset
    feed = dataset.train_feed(config.batch_size, config.seed, step + 1)
    shared, own = feed.inputs(step)
    feed.close()
    seed, step = jnp.uint32(config.seed), jnp.int32(step)
    own = _first(own, count)
    return dataset.train_batch(preprocessing, config.batch_size, shared, own, seed, step), dataset


def _first(own: Any, count: int) -> Any:
    """Returns the first images of a batch, given the share of each device."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], own)


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
    """Returns each image's class, or for a mixed image both classes with percentages."""
    labels: Int[np.ndarray, " b"] = np.asarray(batch.labels)
    if batch.lam is None:
        return [names[label] for label in labels]
    return [
        f"{100 * lam:.0f} {names[label]}, {100 * (1 - lam):.0f} {names[other]}"
        for label, other, lam in zip(
            labels, np.asarray(batch.mix_labels), np.asarray(batch.lam), strict=True
        )
    ]


def define_flags() -> None:
    """Declares the options of this command."""
    define_config_flag()
    flags.DEFINE_string("output", "preview.png", "PNG file to write.")
    flags.DEFINE_integer("count", 32, "Number of images, rounded up to an even number.", 1)
    flags.DEFINE_integer("columns", 8, "Number of images per row.", 1)
    flags.DEFINE_integer("step", 0, "Step of the run whose batch to show.", 0)
    flags.DEFINE_bool("train", True, "Show training images; --notrain shows test images.")


def main(argv: list[str]) -> None:
    """Draws the images of one step, or test images."""
    options = flags.FLAGS
    config, _ = config_of_flags(options)
    check_config(config)
    check_devices(config, 1)
    output = pathlib.Path(options.output)
    if output.suffix.lower() != ".png":
        raise UserError(f"--output={output} must end in .png")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent} for {output.name}; create it first")
    count = min(options.count + options.count % 2, config.batch_size)
    batch, dataset = preview_batch(config, options.step, count, options.train)
    images = batch.images * jnp.asarray(dataset.std) + jnp.asarray(dataset.mean)
    captions = captions_of(batch, dataset.class_names)
    draw_grid(np.asarray(jax.device_get(images)), captions, options.columns).save(output)
    what = f"training images of step {options.step}" if options.train else "test images"
    print(f"{len(captions)} {what} of {dataset.name}, preprocessed: {output}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
