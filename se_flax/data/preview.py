"""Draws a network's input images.

python -m se_flax.data.preview --config=configs/quickstart.py
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from se_flax.cli.command import parse_flags, run_command
from se_flax.cli.config_flag import define_config_flag
from se_flax.config import check_config
from se_flax.data.dataset import ImageDataset
from se_flax.data.from_config import preprocessing_of
from se_flax.data.grid import captions_of, draw_grid, first_images
from se_flax.data.preprocessing import Batch
from se_flax.data.stages import stage_at
from se_flax.errors import UserError
from se_flax.main import config_of_flags
from se_flax.parallel import check_devices
from se_flax.program import dataset_of_run, plan_of, with_preparation
from se_flax.stages import configs_of_stages


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
    config = with_preparation(config)
    dataset = dataset_of_run(config)
    total_steps = max(plan_of(config, dataset).total_steps, step + 1)
    stages = configs_of_stages(config)
    config = stages[stage_at(step, total_steps, len(stages))]
    preprocessing = preprocessing_of(config, dataset)
    if not train:
        # Batches may be as small as half of what is asked for.
        shared, own = next(iter(dataset.eval_feed("test", 2 * count)))
        batch = dataset.eval_batch(preprocessing, shared, first_images(own, count))
        return jax.tree.map(lambda x: x[np.asarray(batch.mask)], batch), dataset
    feed = dataset.train_feed(config.batch_size, config.seed, total_steps)
    shared, own = feed.inputs(step)
    feed.close()
    seed, step = jnp.uint32(config.seed), jnp.int32(step)
    own = first_images(own, count)
    return dataset.train_batch(preprocessing, config.batch_size, shared, own, seed, step), dataset


def define_flags() -> None:
    """Declares the options of this command."""
    define_config_flag()
    flags.DEFINE_string("output", "preview.png", "PNG file to write.")
    flags.DEFINE_integer("count", 32, "Number of images, rounded up to an even number.", 1)
    flags.DEFINE_integer("columns", 8, "Number of images per row.", 1)
    flags.DEFINE_integer("step", 0, "Show the training batch of this step.", 0)
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
