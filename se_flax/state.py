"""The state that a run carries from step to step, and its initial value."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, UInt

from se_flax import rng
from se_flax.models.initial_values import initial_values


@flax.struct.dataclass
class TrainState:
    """The training state of a network; a pytree.

    Attributes:
        step: int32, number of updates so far.
        seed: uint32, seed of every random stream of the run (`se_flax.rng`).
        params: the network's parameters.
        batch_stats: running means and variances of its batch norms.
        opt_state: the optimiser's state.
        ema: exponential moving average of {"params", "batch_stats"}, or None.
    """

    step: Int[Array, ""]
    seed: UInt[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to evaluate: the moving average, if there is one."""
        if self.ema is not None:
            return self.ema
        return {"params": self.params, "batch_stats": self.batch_stats}

    def with_variables(self, variables: dict[str, Any]) -> "TrainState":
        """Returns the state with new variables, from which the moving average restarts."""
        average = None if self.ema is None else jax.tree.map(jnp.copy, variables)
        return self.replace(**variables, ema=average)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: rng.Seed,
    ema: bool = False,
) -> TrainState:
    """Returns a freshly initialised state; under `jax.eval_shape`, its shapes and types.

    It takes less time without `jax.jit` (see `initial_values`).
    """
    variables = initial_values(model, rng.key(seed, rng.Stream.INIT), image_shape)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = {"params": params, "batch_stats": batch_stats} if ema else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy, because a buffer of the state can be donated only once.
        ema=jax.tree.map(jnp.copy, average),
    )
