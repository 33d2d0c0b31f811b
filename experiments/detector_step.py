"""A detector's training step: the four losses, their gradients, and an update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Key

from se_flax.detection import Batch, FasterRCNN, losses, trainable

State = tuple[Any, Any, Any]  # parameters, statistics of the batch norms, state of the optimiser


def make_step(
    model: FasterRCNN, learning_rate: float, axis: str | None = None
) -> tuple[Callable[[Any], State], Callable[[State, Batch, Key[Array, ""]], tuple[State, Any]]]:
    """Returns a function of the variables that makes the state, and the step.

    The optimiser is Detectron's: SGD with a momentum of 0.9 and a weight decay of 1e-4. The step
    returns the new state and the four losses.

    Args:
        model: the detector.
        learning_rate: of all steps.
        axis: the mapped axis over which gradients and losses are averaged, if any.
    """
    rule = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(learning_rate, 0.9))
    optimizer = optax.masked(rule, functools.partial(trainable, model))

    def begin(variables):
        params = variables["params"]
        return params, variables["batch_stats"], optimizer.init(params)

    def step(state, batch, key):
        params, batch_stats, opt_state = state

        def loss_of(params):
            four = losses(model, {"params": params, "batch_stats": batch_stats}, batch, key)
            return sum(four.values()), four

        gradients, four = jax.grad(loss_of, has_aux=True)(params)
        if axis is not None:
            gradients, four = jax.lax.pmean((gradients, four), axis)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), four

    return begin, step
