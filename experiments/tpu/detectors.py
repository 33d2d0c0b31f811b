"""A detector's training step and inference, lowered for TPUs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.detector_step import make_step
from se_flax.detection import Batch, Truth, create_detector, detect
from se_flax.parallel import AXIS

NUM_CLASSES = 91  # COCO's numbers go to 90; the background is class 0
PADDED = (800, 1344)  # the largest of the padded sizes, height and width in pixels
MAX_BOXES = 100  # places for the true boxes of an image, of which COCO has up to 93
Lowered = jax.stages.Lowered


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def batch_of(devices: int, batch_size: int, dtype: str) -> Batch:
    """Returns the shapes of a batch, [devices, batch_size / devices, ...]."""
    n = (devices, batch_size // devices)
    truth = Truth(
        boxes=_array((*n, MAX_BOXES, 4), jnp.float32),
        labels=_array((*n, MAX_BOXES), jnp.int32),
        valid=_array((*n, MAX_BOXES), bool),
    )
    return Batch(_array((*n, *PADDED, 3), dtype), _array((*n, 2), jnp.float32), truth)


def detector_of(config: ConfigDict) -> Any:
    """Returns the detector of a config."""
    name, dtype = config.model.name, jnp.dtype(config.dtype)
    overrides = config.model.overrides.to_dict()
    return create_detector(name, NUM_CLASSES, dtype=dtype, remat=config.remat, **overrides)


def _variables(model: Any) -> Any:
    image = _array((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def lower_training(config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers a training step: the four losses, their gradients and the update."""
    model = detector_of(config)
    begin, step = make_step(model, learning_rate=0.02, axis=AXIS)

    def with_own_draw(state, batch, key):
        return step(state, batch, jax.random.fold_in(key, jax.lax.axis_index(AXIS)))

    mapped = jax.pmap(
        with_own_draw,
        AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )
    state = jax.eval_shape(begin, _variables(model))
    batch = batch_of(len(devices), config.batch_size, config.dtype)
    return mapped.lower(state, batch, jax.eval_shape(lambda: jax.random.key(0)))


def lower_inference(config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers the detections of images."""
    model = detector_of(config)
    batch = batch_of(len(devices), config.batch_size, config.dtype)
    found = functools.partial(detect, model)
    mapped = jax.pmap(found, AXIS, in_axes=(None, 0, 0), devices=devices)
    return mapped.lower(_variables(model), batch.images, batch.sizes)
