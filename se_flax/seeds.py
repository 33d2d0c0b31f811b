"""Several networks, each with its own seed, trained as one run.

A run asks a `Networks` for its state, passes that state to each step, and gets a list of results,
one per network. A run of one network gets a list of one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from se_flax.data.dataset import Inputs
from se_flax.metrics import Sums, total
from se_flax.parallel import pmap_eval, pmap_train, replicate
from se_flax.state import TrainState

Step = Callable[[TrainState, Any, Any], tuple[TrainState, Any]]
Evaluate = Callable[[dict[str, Any], Any, Any], Any]


@runtime_checkable
class Networks(Protocol):
    """The networks of a run. Only this class knows the form of their state.

    Attributes:
        seeds: the seed of each network.
    """

    seeds: Sequence[int]

    def init(self) -> Any:
        """Returns the initial state."""

    def map(self, function: Callable[[TrainState], TrainState], state: Any) -> Any:
        """Returns the state with a function applied to it.

        The function may get the states of all networks as one, whose arrays have a leading axis of
        networks.
        """

    def train(self, state: Any, inputs: Sequence[Inputs], num_steps: int) -> tuple[Any, Any]:
        """Returns the state after some steps, and the sums for `metrics`. Donates the old state."""

    def metrics(self, sums: Any) -> list[Sums]:
        """Waits for the metrics of `train`, and returns those of each network."""

    def evaluate(self, state: Any, batches: Iterable[Inputs]) -> list[Any]:
        """Returns for each network the sum of what `evaluate` returns for the batches."""

    def variables(self, state: Any) -> list[dict[str, Any]]:
        """Returns the variables of each network."""

    def save(self, state: Any) -> TrainState:
        """Returns what is saved; with several networks, arrays have a leading axis of networks."""

    def restore(self, saved: TrainState) -> Any:
        """Returns a saved state, placed on the devices."""

    def abstract(self) -> TrainState:
        """Returns the shapes and types of what is saved."""


class InTurn:
    """Networks that take each step one after the other; their state is a tuple of states.

    Args:
        seeds: the seed of each network.
        init: `init(seed)` returns an initial state.
        step: `step(state, shared, own)`, one training step (see `parallel.pmap_train`).
        evaluate: `evaluate(variables, shared, own)`, one batch.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        init: Callable[[Any], TrainState],
        step: Step,
        evaluate: Evaluate,
    ):
        self.seeds = seeds
        self._init = init
        self._train, self._evaluate = pmap_train(step), pmap_eval(evaluate)

    def init(self) -> tuple[TrainState, ...]:
        """See `Networks`."""
        return tuple(replicate(self._init(np.uint32(seed))) for seed in self.seeds)

    def map(self, function, state):
        """See `Networks`."""
        return tuple(map(function, state))

    def train(self, state, inputs, num_steps):
        """See `Networks`; there is one entry of inputs per network."""
        done = [self._train(one, *own, num_steps) for one, own in zip(state, inputs, strict=True)]
        state, sums = zip(*done, strict=True)
        return state, sums

    def metrics(self, sums):
        """See `Networks`."""
        return [each.on_host() for each in sums]

    def evaluate(self, state, batches):
        """See `Networks`."""
        variables = self.variables(state)
        sums = [[self._evaluate(each, *batch) for each in variables] for batch in batches]
        return [total(of_one) for of_one in zip(*sums, strict=True)]

    def variables(self, state):
        """See `Networks`."""
        return [one.variables for one in state]

    def save(self, state):
        """See `Networks`."""
        if len(state) == 1:
            return state[0]
        return jax.tree.map(lambda *arrays: np.stack(jax.device_get(arrays)), *state)

    def restore(self, saved):
        """See `Networks`."""
        if len(self.seeds) == 1:
            return (replicate(saved),)
        return tuple(replicate(_one(saved, place)) for place in range(len(self.seeds)))

    def abstract(self):
        """See `Networks`."""
        one = jax.eval_shape(self._init, np.uint32(0))
        return one if len(self.seeds) == 1 else _several(one, len(self.seeds))


class AtOnce:
    """Networks that take each step together, by `jax.vmap`; their states are stacked into one.

    All take the same inputs. For the arguments, see `InTurn`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        init: Callable[[Any], TrainState],
        step: Step,
        evaluate: Evaluate,
    ):
        self.seeds = seeds
        self._init = jax.vmap(init)
        self._train = pmap_train(jax.vmap(step, (0, None, None)))
        self._evaluate = pmap_eval(jax.vmap(evaluate, (0, None, None)))

    def init(self):
        """See `Networks`."""
        return replicate(self._init(np.array(self.seeds, np.uint32)))

    def map(self, function, state):
        """See `Networks`."""
        return function(state)

    def train(self, state, inputs, num_steps):
        """See `Networks`; there is one entry of inputs for all."""
        ((shared, own),) = inputs
        return self._train(state, shared, own, num_steps)

    def metrics(self, sums):
        """See `Networks`."""
        sums = sums.on_host()
        return [_one(sums, place) for place in range(len(self.seeds))]

    def evaluate(self, state, batches):
        """See `Networks`."""
        return self.metrics(total([self._evaluate(state.variables, *batch) for batch in batches]))

    def variables(self, state):
        """See `Networks`."""
        return [_one(state.variables, place) for place in range(len(self.seeds))]

    def save(self, state):
        """See `Networks`."""
        return state

    def restore(self, saved):
        """See `Networks`."""
        return replicate(saved)

    def abstract(self):
        """See `Networks`."""
        return jax.eval_shape(self._init, np.array(self.seeds, np.uint32))


def _one(tree: Any, place: int) -> Any:
    return jax.tree.map(lambda x: x[place], tree)


def shapes_of_one(shapes: Any, seeds: Sequence[int]) -> Any:
    """Returns the shapes of one network's arrays, given the saved shapes of all."""
    if len(seeds) == 1:
        return shapes
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)


def _several(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), tree)


def mean(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each value over all networks."""
    return {name: float(np.mean([each[name] for each in results])) for name in results[0]}


def named(results: Sequence[dict[str, float]], seeds: Sequence[int]) -> dict[str, float]:
    """Returns the mean of each value and, with several networks, also the values of each.

    A mean is called "top1", the value of one network "seed0/top1".
    """
    values = mean(results)
    if len(seeds) > 1:
        for seed, each in zip(seeds, results, strict=True):
            values |= {f"{name_of(seed)}{name}": value for name, value in each.items()}
    return values


def name_of(seed: int) -> str:
    """Returns the prefix of the names of a network's values in a run of several."""
    return f"seed{seed}/"


def metrics_to_choose_by(seeds: Sequence[int], metric: str = "top1") -> tuple[str, ...]:
    """Returns, for each network, the name of the metric whose best checkpoint is kept."""
    return (metric,) if len(seeds) == 1 else tuple(f"{name_of(seed)}{metric}" for seed in seeds)


def one_or_all(values: Sequence[Any]) -> Any:
    """Returns the value if there is only one, otherwise the list of all."""
    return values[0] if len(values) == 1 else list(values)
