"""What a run carries from step to step, and how it begins."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from se_flax import rng


@flax.struct.dataclass
class TrainState:
    """The state of one network in training; a pytree.

    Of several seeds trained as one run, every array has a leading axis for them.

    Attributes:
        step: int32, how many updates have been made.
        seed: uint32, of the data order, the augmentation and dropout.
        params: the network's parameters.
        batch_stats: running mean and variance of its batch norms.
        opt_state: the optimiser's state.
        ema: exponential moving average of {"params", "batch_stats"}, or None.
    """

    step: Int[Array, ""]
    seed: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = None

    @property
    def host_step(self) -> int:
        """`step` as a Python integer, once it is computed; all seeds are at the same."""
        return int(np.asarray(self.step).reshape(-1)[0])

    @property
    def variables(self) -> dict[str, Any]:
        """What to evaluate: the moving average where one is kept."""
        if self.ema is not None:
            return self.ema
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int,
    ema: bool = False,
) -> TrainState:
    """Returns a freshly initialised state; under `jax.eval_shape`, its shapes and types."""
    init_key = rng.key(seed, rng.Stream.INIT)
    variables = model.init(init_key, jnp.zeros((1, *image_shape)), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = {"params": params, "batch_stats": batch_stats} if ema else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy, because the state's buffers are donated and each may be given away once.
        ema=jax.tree.map(jnp.copy, average),
    )


def _on_devices(*axes: str) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def replicate(tree: Any) -> Any:
    """Copies a tree of arrays to every local device, as the pmapped steps take it."""
    return jax.device_put(tree, _on_devices())


def share_out(tree: Any) -> Any:
    """Copies arrays [devices, ...] to the local devices, a row to each."""
    return jax.device_put(tree, _on_devices("batch"))
