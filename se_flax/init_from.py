"""Runs that start from published weights."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from se_flax.pretrained import load_pretrained
from se_flax.pretrained.load import NewClassifier
from se_flax.state import TrainState


def published_variables(
    name: str, source: str, num_classes: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Returns the published variables of a network to start from.

    If the weights are for another number of classes, the classifiers are left out, and a printed
    line says so.

    Raises:
        UserError: if the weights cannot be read or are not the network's.
    """
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NewClassifier)
        variables = load_pretrained(name, source, num_classes=num_classes, **overrides)
    params = dict(variables["params"])
    for note in notes:
        print(note.message)
        params = {k: value for k, value in params.items() if not k.endswith("classifier")}
    return {"params": params, "batch_stats": variables.get("batch_stats", {})}


def with_published(state: TrainState, variables: dict[str, Any]) -> TrainState:
    """Returns an initial state that starts from published variables.

    Classifiers that the variables lack keep their initial values.
    """
    params = {**state.params, **variables["params"]}
    variables = {"params": params, "batch_stats": variables["batch_stats"]}
    current = {"params": state.params, "batch_stats": state.batch_stats}
    # The states of several networks have a leading axis of networks.
    variables = jax.tree.map(lambda new, old: jnp.broadcast_to(new, old.shape), variables, current)
    return state.with_variables(variables)
