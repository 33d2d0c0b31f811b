"""The files of a hub repository with a run's network: weights, description, recipe and model card.

timm reads the repository (`timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`) if it has a
network that computes the same; then the tensors are in its layout, from which ours are made bit for
bit. Otherwise they are in our own. One file therefore serves both.
"""

import json
import os
from typing import Any

import flax.traverse_util

from se_flax import __version__
from se_flax.errors import UserError
from se_flax.export.card import model_card
from se_flax.export.network import TrainedNetwork
from se_flax.export.recipe import recipe
from se_flax.export.record import Record
from se_flax.models import list_models, model_info
from se_flax.pretrained.save import layout_for, plain_fields
from se_flax.runtime.paths import to_path
from se_flax.workdir import read_config


def check_registered(workdir: str | os.PathLike[str]) -> None:
    """Raises `UserError` unless the network of a run is one that comes with this package."""
    name = read_config(to_path(workdir)).model.name
    own = name in list_models() and model_info(name).module.__module__.startswith("se_flax.")
    if not own:
        raise UserError(
            f'{workdir} was trained with the network "{name}", which does not come with se_flax, '
            "so that nobody could build it from what is published; only runs with a network of "
            "se_flax.list_models() can be published"
        )


def repository_files(
    trained: TrainedNetwork, record: Record, repository: str, license: str = "unknown"
) -> dict[str, bytes]:
    """Returns the content of a repository's files by name.

    `model.safetensors` has the weights, `config.json` what timm and `load_pretrained` need to know
    of them, `recipe.py` the config that trains them, and `README.md` is the model card.

    Args:
        trained: the network.
        record: of its training.
        repository: hub id of the repository, OWNER/NAME.
        license: the hub's name of the licence.

    Raises:
        UserError: if an override of the network is not a plain value.
    """
    weights, layout = _weights(trained)
    config = json.dumps(_description(trained, record, layout), indent=2) + "\n"
    card = model_card(trained, record, repository, license, for_timm=layout == "timm")
    return {
        "README.md": card.encode(),
        "config.json": config.encode(),
        "model.safetensors": weights,
        "recipe.py": recipe(record.config).encode(),
    }


def _weights(trained: TrainedNetwork) -> tuple[bytes, str | None]:
    """Returns the content of the file with the weights, and its layout, None for our own."""

    try:
        return trained.to_safetensors("timm"), "timm"
    except UserError:  # timm has no network that computes the same
        return trained.to_safetensors(), None


def _description(trained: TrainedNetwork, record: Record, layout: str | None) -> dict[str, Any]:
    """Returns `config.json` in timm's form, with a section of our own that timm ignores."""
    fields = plain_fields(trained.name, trained.overrides)
    stated = trained.description(layout)
    if layout:
        stated["pretrained_cfg"] |= {
            "num_classes": trained.num_classes,
            **_ends(trained, layout, fields),
        }
    stated["se_flax"] = {
        "version": __version__,
        "model": trained.name,
        "overrides": fields,
        "dataset": record.dataset[0],
        "step": trained.step,
        "seed": record.seed,
        "git_revision": record.summary.get("git_revision"),
    }
    return stated


def _ends(trained: TrainedNetwork, layout: str, fields: dict[str, Any]) -> dict[str, str]:
    """Returns the names of the first and last layer, which timm replaces for other images."""
    theirs = layout_for(trained.name, layout, fields)
    ends = {"classifier": theirs.classifier_bias.removesuffix(".bias")}
    channels = len(trained.preparation.mean)
    kernels = flax.traverse_util.flatten_dict({"params": trained.variables["params"]})
    first = [path for path, x in kernels.items() if x.ndim == 4 and x.shape[2] == channels]
    if len(first) == 1:
        ends["first_conv"] = theirs.name(first[0]).removesuffix(".weight")
    return ends
