"""The one place that maps a step over devices.

The state has no axis of devices. It is replicated, and every device returns the same new state,
because the step averages over the mapped axis `AXIS`. Only the input is mapped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from se_flax.errors import UserError

AXIS = "batch"


def pmap_train(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], devices: Sequence[Any] | None = None
) -> Callable[..., tuple[Any, Any]]:
    """Returns `train(state, shared, own, num_steps)`: steps on all devices at once.

    A single step is compiled without a loop around it, because on a CPU XLA runs convolutions many
    times slower inside one.

    Args:
        step: `step(state, shared, own)` returns the new state and the metrics of a step.
        devices: the devices; None for all.

    Returns:
        A function of the state, which is donated; of inputs that all devices share; of inputs
        [devices, ...], of which each device gets its own; and of the number of steps. It returns
        the new state and the sum of the metrics.
    """

    def train(state, shared, own, num_steps):
        if num_steps == 1:
            return step(state, shared, own)

        def add_step(carry, _):
            state, total = carry
            state, metrics = step(state, shared, own)
            return (state, total + metrics), None

        _, metrics = jax.eval_shape(step, state, shared, own)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        (state, total), _ = jax.lax.scan(add_step, (state, zero), length=num_steps)
        return state, total

    return jax.pmap(
        train,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        static_broadcasted_argnums=3,
        donate_argnums=0,
        devices=devices,
    )


def pmap_eval(step: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Returns `evaluate(variables, shared, own)`: one batch over all devices (see `pmap_train`)."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None)


def replicate(tree: Any) -> Any:
    """Copies a tree of arrays to every local device."""
    return jax.device_put(tree, _on_devices())


def split_up(tree: Any) -> Any:
    """Splits arrays [b, ...] among the local devices: [devices, b / devices, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), tree)


def share_out(tree: Any) -> Any:
    """Copies arrays [devices, ...] to the local devices, one row to each."""
    return jax.device_put(tree, _on_devices(AXIS))


def _on_devices(*axes: str) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def check_devices(config: ConfigDict, num_devices: int) -> None:
    """Raises `UserError` unless the batch can be shared evenly among the devices."""
    if config.batch_size % num_devices:
        lower = config.batch_size - config.batch_size % num_devices
        raise UserError(
            f"config.batch_size ({config.batch_size}) cannot be shared evenly by {num_devices} "
            f"devices; use a multiple of {num_devices}, such as {lower or num_devices}"
        )
    if config.batch_size // num_devices % config.accumulate_steps:
        raise UserError(
            f"config.accumulate_steps={config.accumulate_steps} cannot divide the "
            f"{config.batch_size // num_devices} images that each of {num_devices} devices gets of "
            f"config.batch_size={config.batch_size}; use a divisor of that number"
        )
    mixes = config.augment.mixup or config.augment.cutmix
    if mixes and config.batch_size // num_devices % 2:
        raise UserError(
            f"config.batch_size ({config.batch_size}) gives each of {num_devices} devices an odd "
            "number of images, but mixup and cutmix take pairs; use a multiple of "
            f"{2 * num_devices}"
        )


def batch_slots(batch_size: int) -> Int[Array, "local_devices b"]:
    """Returns the places in the global batch that each local device fills."""
    share = batch_size // jax.device_count()
    first = jax.process_index() * jax.local_device_count()
    return jnp.arange(jax.local_device_count() * share).reshape(-1, share) + first * share


def divisible(batch_size: int) -> int:
    """Returns a batch size, rounded up so that all devices have equal shares."""
    return -(-batch_size // jax.device_count()) * jax.device_count()
