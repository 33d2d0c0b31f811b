"""Runs that start from published weights: the images they want, and the initial state."""

import dataclasses
import fnmatch
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
from ml_collections import ConfigDict

from se_flax.data.dataset import RunDataset
from se_flax.data.from_config import preparation_of
from se_flax.data.sources import known_datasets
from se_flax.detection.create import is_detector, normalisation
from se_flax.errors import printing_notes
from se_flax.models import model_info
from se_flax.pretrained import load_pretrained
from se_flax.pretrained.described import stated_preparation
from se_flax.pretrained.load import NewAuxiliary, NewClassifier
from se_flax.published import preparation_for
from se_flax.runtime.paths import Path
from se_flax.state import TrainState
from se_flax.workdir import has_checkpoint, read_config

# The fields of config.dataset that say how images are prepared.
_PREPARATION = ("image_size", "crop_pct", "interpolation", "mean", "std")
# The modules that each kind of note says are newly initialised.
_NEW = ((NewClassifier, "*classifier"), (NewAuxiliary, "auxiliary_*"))


def unset_preparation(
    config: ConfigDict, workdir: Path | None = None, dataset: RunDataset | None = None
) -> dict[str, Any]:
    """Returns values for what a config leaves unset of how images are prepared.

    A run that continues prepares images as before. A new run prepares them as is stated with the
    weights that it starts from, and otherwise as for its data set or its network.

    Args:
        config: of the run.
        workdir: of the run, or None.
        dataset: data set that is used instead of the one that the config names.

    Returns:
        Plain values by the name of the field of `config.dataset`.

    Raises:
        UserError: if the hub cannot be read, or the config in the workdir is damaged.
    """
    if workdir is not None and has_checkpoint(workdir):
        values = read_config(workdir).dataset.to_dict()
    elif dataset is not None:
        values = {"mean": map(float, dataset.mean), "std": map(float, dataset.std)}
    else:
        values = _wanted(config)
    return {
        field: values[field] if isinstance(values[field], int | float | str) else [*values[field]]
        for field in _PREPARATION
        if field in values and not config.dataset[field]
    }


def _wanted(config: ConfigDict) -> dict[str, Any]:
    """Returns how the weights of a new run, or else its data set or network, want its images."""
    name, weights, data = config.model.name, config.init_from, config.dataset
    if is_detector(name):
        prepared = normalisation(name)
        return {"mean": prepared.mean, "std": prepared.std}
    if not data.image_dir and data.name in known_datasets():  # at their own size, in memory
        stated = stated_preparation(name, weights) if weights else None
        return {"mean": stated.mean, "std": stated.std} if stated else {}
    otherwise = model_info(name).preparation
    if weights:
        otherwise = preparation_for(name, weights, None if data.image_dir else data.name)
    prepared = dataclasses.asdict(preparation_of(config, otherwise))
    return {"image_size": prepared.pop("size"), **prepared}


def published_variables(
    name: str, source: str, num_classes: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Returns the published variables of a network to start from.

    What the weights do not have is left out: the classifiers, if they are for another number of
    classes, and an auxiliary classifier. A printed line says so.

    Raises:
        UserError: if the weights cannot be read or are not the network's.
    """
    with printing_notes() as notes:
        variables = load_pretrained(name, source, num_classes=num_classes, **overrides)
    new = [part for kind, part in _NEW if any(issubclass(note.category, kind) for note in notes)]
    return {
        kind: {
            module: value
            for module, value in variables.get(kind, {}).items()
            if not any(fnmatch.fnmatch(module, part) for part in new)
        }
        for kind in ("params", "batch_stats")
    }


def with_published(state: TrainState, variables: dict[str, Any]) -> TrainState:
    """Returns an initial state that starts from published variables.

    What the variables lack keeps its initial values.
    """
    current = {"params": state.params, "batch_stats": state.batch_stats}
    flat = flax.traverse_util.flatten_dict(current, keep_empty_nodes=True)
    for path, new in flax.traverse_util.flatten_dict(variables).items():
        # The states of several networks have a leading axis of networks.
        flat[path] = jnp.broadcast_to(new, flat[path].shape)
    return state.with_variables(flax.traverse_util.unflatten_dict(flat))
