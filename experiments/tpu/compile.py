"""Compiles one program in a process of its own: python -m experiments.tpu.compile PROGRAM OUTPUT.

PROGRAM is a `programs.Program` as JSON. What the compiler says of it is written to OUTPUT, as JSON.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from ml_collections import ConfigDict

from experiments.tpu import detectors
from experiments.tpu.chips import Topology
from experiments.tpu.programs import (
    DETECTORS,
    DISPATCH,
    INFERENCE,
    OURS,
    RUNS,
    STOCK_NETWORKS,
    TOO_LARGE,
    Program,
)
from experiments.tpu.traffic import hbm_bytes
from se_flax.config import build_model
from se_flax.data import Dataset, Split
from se_flax.data.memory import DeviceSplit
from se_flax.data.preprocessing import Batch
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.optim import Hyperparameters
from se_flax.parallel import AXIS, check_devices, pmap_train
from se_flax.program import default_steps_per_dispatch, task_of
from se_flax.task import functions_of

DTYPE = "bfloat16"
# What the compiler says of a program that is too large, with the sizes needed and available.
SIZE = r"[\d.]+[KMGT]?"
MESSAGES = (
    r"Used {} of {} hbm",
    r"required for HLO temporaries \({}\) exceeds available HBM \({}\)",
)
CIFAR_SIZES = {"train": 50_000, "test": 10_000}
Lowered = jax.stages.Lowered


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set whose batches are given as they are, ready for the network."""

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.25,) * 3
    horizontal_flip: bool = True

    def train_batch(self, preprocessing, batch_size, shared, own, seed, step) -> Batch:
        """Returns the batch."""
        return own


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _batch(devices: int, batch_size: int, image_shape: tuple[int, int, int]) -> Batch:
    shape = (devices, batch_size // devices)
    return Batch(
        _array((*shape, *image_shape), DTYPE), _array(shape, jnp.int32), _array(shape, bool)
    )


def _hyperparameters() -> Hyperparameters:
    return Hyperparameters(_array((2**17,), jnp.float32), _array((), jnp.float32))


def _lower_steps(config: ConfigDict, dataset: Any, devices, images, own, num_steps) -> Lowered:
    init, step, _ = functions_of(task_of(dataset), config, optax.constant_schedule(0.1))
    state = jax.eval_shape(init, np.uint32(0))
    return pmap_train(step, devices).lower(state, (_hyperparameters(), images), own, num_steps)


def lower_training(config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers a training step of a run, given images that are prepared already."""
    info = model_info(config.model.name)
    dataset = Prepared(info.num_classes, (info.input_size, info.input_size, 3))
    own = _batch(len(devices), config.batch_size, dataset.image_shape)
    return _lower_steps(config, dataset, devices, (), own, 1)


def steps_of_dispatch(config: ConfigDict) -> int:
    """Returns how many steps of a run on CIFAR a TPU takes at once."""
    return default_steps_per_dispatch(round(CIFAR_SIZES["train"] / config.batch_size), "tpu")


def lower_dispatch(config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers many steps of a run on CIFAR, with its augmentation, as one program."""
    info = model_info(config.model.name)
    size = (info.input_size, info.input_size, 3)
    splits = {
        name: Split(np.broadcast_to(np.uint8(0), (count, *size)), np.zeros(count, np.int32))
        for name, count in CIFAR_SIZES.items()
    }
    dataset = Dataset(
        name=config.dataset.name,
        **splits,
        class_names=tuple(map(str, range(info.num_classes))),
        mean=info.mean,
        std=info.std,
        horizontal_flip=True,
    )
    count = CIFAR_SIZES["train"]
    images = DeviceSplit(
        _array((count, math.prod(size)), jnp.uint8), _array((count,), jnp.int32), tuple(size)
    )
    own = _array((len(devices), config.batch_size // len(devices)), jnp.int32)
    return _lower_steps(config, dataset, devices, images, own, steps_of_dispatch(config))


def lower_inference(model: Any, image_size: int, batch_size: int, devices: list[Any]) -> Lowered:
    """Lowers a network's logits."""
    images = _batch(len(devices), batch_size, (image_size, image_size, 3)).images
    variables = _variables(model, images)
    infer = jax.pmap(
        functools.partial(model.apply, train=False),
        AXIS,
        in_axes=(None, 0),
        devices=devices,
    )
    return infer.lower(variables, images)


def lower_stock_training(
    model: Any, image_size: int, batch_size: int, devices: list[Any]
) -> Lowered:
    """Lowers a training step as one would write it with Flax's own layers."""
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-4, lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
        optax.sgd(0.1, 0.9, nesterov=True),
    )

    def loss_of(params, batch_stats, images, labels):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"]
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(loss), updated["batch_stats"]

    def step(state, batch):
        params, batch_stats, opt_state = state
        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, batch_stats, batch.images, batch.labels
        )
        loss, gradients, batch_stats = jax.lax.pmean((loss, gradients, batch_stats), AXIS)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    batch = _batch(len(devices), batch_size, (image_size, image_size, 3))
    variables = _variables(model, batch.images)
    params, batch_stats = variables["params"], variables["batch_stats"]
    state = (params, batch_stats, jax.eval_shape(optimizer.init, params))
    mapped = jax.pmap(
        step, AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0
    )
    return mapped.lower(state, batch)


def _variables(model: Any, images: jax.ShapeDtypeStruct) -> Any:
    one = _array((1, *images.shape[2:]), images.dtype)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), one)
    return {name: variables[name] for name in ("params", "batch_stats")}


def lower(program: Program, config: ConfigDict, devices: list[Any]) -> Lowered:
    """Lowers a program for some devices.

    Raises:
        UserError: if the devices cannot share the batch.
    """
    config.batch_size, config.dtype = program.batch_size, DTYPE
    config.remat, config.accumulate_steps = program.remat, program.accumulate_steps
    check_devices(config, len(devices))
    if program.network in DETECTORS:
        inference = program.program == INFERENCE
        lower_it = detectors.lower_inference if inference else detectors.lower_training
        return lower_it(config, devices)
    info = model_info(config.model.name)
    ours = program.implementation == OURS
    if ours and program.program == DISPATCH:
        return lower_dispatch(config, devices)
    if ours and program.program != INFERENCE:
        return lower_training(config, devices)
    if ours:
        model = build_model(config, info.num_classes)
    else:
        model = STOCK_NETWORKS[program.network](jnp.dtype(DTYPE))
    lower_it = lower_inference if program.program == INFERENCE else lower_stock_training
    return lower_it(model, info.input_size, program.batch_size, devices)


def devices_of(topology: str) -> list[Any]:
    """Returns the devices of a topology, which can be compiled for, but not used."""
    config = Topology.of(topology).chip.config
    options = {"chip_config_name": config} if config else {}
    return list(topologies.get_topology_desc(topology, "tpu", **options).devices)


def compiled(program: Program, config: ConfigDict) -> dict[str, Any]:
    """Compiles a program, and returns what its row of the results says.

    Numbers are those of one device; `steps` is how many training steps it takes.
    """
    begun = time.perf_counter()
    steps = steps_of_dispatch(config) if program.program == DISPATCH else 1
    has_loop = steps > 1 or program.network in DETECTORS
    row = {"steps": steps, "compiles": False}
    try:
        executable = lower(program, config, devices_of(program.topology)).compile()
    except (UserError, jax.errors.JaxRuntimeError) as error:
        row |= refusal(str(error))
    else:
        costs, memory = executable.cost_analysis(), executable.memory_analysis()
        row |= {
            "compiles": True,
            "flops": costs["flops"],
            "bytes": costs["bytes accessed"],
            "hbm_bytes": None if has_loop else hbm_bytes(executable.as_text()),
            "estimate": costs.get("optimal_seconds"),
            "hbm": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes,
        }
    return row | {"compile_seconds": round(time.perf_counter() - begun, 1)}


def refusal(message: str) -> dict[str, Any]:
    """Returns the reason why a program does not compile, and the HBM it would need if that is it.

    Args:
        message: the compiler's message.
    """
    for pattern in MESSAGES:
        if found := re.search(pattern.format(rf"({SIZE})", rf"({SIZE})"), message):
            needed, available = map(_bytes, found.groups())
            return {"reason": TOO_LARGE, "hbm": needed, "hbm_available": available}
    return {"reason": " ".join(message.split())[:200]}


def _bytes(size: str) -> int:
    """Reads a size as the compiler writes it, such as 15.75G."""
    unit = 2 ** (10 * ("KMGT".find(size[-1]) + 1))
    return int(float(size.rstrip("KMGT")) * unit)


def main() -> None:
    """Compiles the program that the command line gives."""
    jax.config.update("jax_enable_compilation_cache", False)
    program = Program(**json.loads(sys.argv[1]))
    row = compiled(program, RUNS[program.network]())
    pathlib.Path(sys.argv[2]).write_text(json.dumps(row))


if __name__ == "__main__":
    main()
