"""A detector's training step and inference, lowered for TPUs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from se_flax.detection.batches import HostBatch
from se_flax.detection.classes import coco_classes
from se_flax.detection.from_config import no_images
from se_flax.optim import Hyperparameters
from se_flax.parallel import AXIS, pmap_train
from se_flax.program import task_of
from se_flax.task import functions_of

PADDED = (800, 1344)  # the largest of the padded sizes, height and width in pixels
MAX_BOXES = 100  # places for the true boxes of an image, of which COCO has up to 93
Lowered = jax.stages.Lowered


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def batch_of(devices: int, batch_size: int) -> HostBatch:
    """Returns the shapes of a batch, [devices, batch_size / devices, ...]."""
    n = (devices, batch_size // devices)
    return HostBatch(
        images=_array((*n, *PADDED, 3), jnp.uint8),
        sizes=_array((*n, 2), jnp.float32),
        boxes=_array((*n, MAX_BOXES, 4), jnp.float32),
        labels=_array((*n, MAX_BOXES), jnp.int32),
        valid=_array((*n, MAX_BOXES), bool),
        places=_array(n, jnp.int32),
        mask=_array(n, bool),
    )


def functions_on_coco(config: ConfigDict) -> tuple[Any, Any, Any]:
    """Returns the functions of a run on COCO; see `se_flax.task.functions_of`."""
    dataset = no_images(config, {"class_names": list(coco_classes().values())})
    return functions_of(task_of(dataset), config, optax.constant_schedule(0.02))


def lower_training(config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers a training step: the four losses, their gradients and the update."""
    init, step, _ = functions_on_coco(config)
    state = jax.eval_shape(init, np.uint32(0))
    hyperparameters = Hyperparameters(_array((2**18,), jnp.float32), _array((), jnp.float32))
    own = batch_of(len(devices), config.batch_size)
    return pmap_train(step, devices).lower(state, (hyperparameters, None), own, 1)


def lower_inference(config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers the detections of images."""
    init, _, evaluate = functions_on_coco(config)
    variables = jax.eval_shape(lambda: init(np.uint32(0)).variables)
    mapped = jax.pmap(evaluate, AXIS, in_axes=(None, None, 0), out_axes=None, devices=devices)
    return mapped.lower(variables, None, batch_of(len(devices), config.batch_size))
