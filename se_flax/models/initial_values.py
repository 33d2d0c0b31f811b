"""The initial values of a network's variables, without computing the network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
from jaxtyping import Array, Key

# The compiled programs, by what they compute.
_PROGRAMS: dict[str, Callable[..., list[Array]]] = {}


def initial_values(
    model: nn.Module, key: Key[Array, ""], image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Returns the variables of `model.init`, bit for bit those that it has under `jax.jit`.

    As one program, `model.init` is slow to compile, because XLA compiles the random numbers of
    each parameter again. Here the values that are drawn alike, with the same initialiser and
    shape, share a program, and the layers are not computed.

    Args:
        model: the network.
        key: for the parameters.
        image_shape: height, width and channels of an image.
    """

    def init(key):
        return model.init(key, jnp.zeros((1, *image_shape)), train=False)

    traced, shapes = jax.make_jaxpr(init, return_shape=True)(key)
    equations = _Equations(traced)
    known = equations.known(traced.jaxpr.invars, [key])
    values = []
    for variable in traced.jaxpr.outvars:
        keys = list(dict.fromkeys(equations.keys_of(variable)))
        of_keys = [equations.value(each, known) for each in keys]

        def drawn(*of_keys, keys=keys, variable=variable):
            return equations.value(variable, equations.known(keys, of_keys))

        values += _program(jax.make_jaxpr(drawn)(*of_keys))(*of_keys)
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


def _program(traced: jax.extend.core.ClosedJaxpr) -> Callable[..., list[Array]]:
    """Returns a compiled program, the same for the same computation."""
    function = jax.jit(jax.extend.core.jaxpr_as_fun(traced))
    if traced.consts:  # which its text does not show
        return function
    return _PROGRAMS.setdefault(str(traced), function)


class _Equations:
    """The equations of a traced function, computed only where they are needed."""

    def __init__(self, traced: jax.extend.core.ClosedJaxpr):
        self._of = {variable: eqn for eqn in traced.eqns for variable in eqn.outvars}
        self._constants = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))

    def known(self, variables: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
        """Returns the values of variables and constants by variable."""
        return self._constants | dict(zip(variables, values, strict=True))

    def keys_of(self, variable: Any) -> Iterator[Any]:
        """Yields the random keys from which a variable is computed."""
        if isinstance(variable, jax.extend.core.Literal):
            return
        if jnp.issubdtype(variable.aval.dtype, jax.dtypes.prng_key):
            yield variable
        elif variable in self._of:
            for each in self._of[variable].invars:
                yield from self.keys_of(each)

    def value(self, variable: Any, known: dict[Any, Any]) -> Any:
        """Returns the value of a variable; adds to the known ones what it computes on the way."""
        if isinstance(variable, jax.extend.core.Literal):
            return variable.val
        if variable not in known:
            eqn = self._of[variable]
            inputs = [self.value(each, known) for each in eqn.invars]
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
            known.update(zip(eqn.outvars, outputs, strict=True))
        return known[variable]
