"""The networks that can be exported: those of runs, and those with published weights."""

import dataclasses
import os
import pathlib
from typing import Any

import flax.linen as nn

from se_flax.loaded import load_run
from se_flax.models import Preparation, create_model
from se_flax.pretrained.described import class_names, meaning_of_logits
from se_flax.pretrained.load import load_with_fields
from se_flax.pretrained.save import describe, plain_fields, to_safetensors
from se_flax.published import has_auxiliary, preparation_for, source_of_weights
from se_flax.runtime.paths import to_path
from se_flax.workdir import read_config


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network with what its users need.

    Attributes:
        name: its name in `list_models()`.
        overrides: fields in which it differs from the network of that name.
        network, variables: the network.
        preparation: how its images are prepared. One mean says that they are grey levels.
        class_names: name of each class, in the order of the logits, if they are known.
        step: step of a run's checkpoint; 0 for published weights.
        loss, multi_label: what the logits mean, see `se_flax.loaded.LoadedRun`.
    """

    name: str
    overrides: dict[str, Any]
    network: nn.Module
    variables: dict[str, Any]
    preparation: Preparation
    class_names: tuple[str, ...] | None
    step: int = 0
    loss: str = "softmax"
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.variables["params"]["classifier"]["bias"])

    def to_safetensors(self, layout: str | None = None) -> bytes:
        """Returns a file with its weights (see `se_flax.export.to_safetensors`)."""
        return to_safetensors(
            self.name,
            self.variables,
            layout=layout,
            overrides=self.overrides,
            preparation=self.preparation,
            class_names=self.class_names,
            loss=self.loss,
            multi_label=self.multi_label,
        )

    def description(self, layout: str | None = None) -> dict[str, Any]:
        """Returns what is stated with it (see `se_flax.pretrained.save.describe`)."""
        return describe(
            self.name,
            self.num_classes,
            self.preparation,
            self.class_names,
            plain_fields(self.name, self.overrides),
            layout,
            loss=self.loss,
            multi_label=self.multi_label,
        )


def network_of_run(
    workdir: str | os.PathLike[str], step: str | int = "best", seed: int | None = None
) -> TrainedNetwork:
    """Returns the network of a run; for arguments and errors see `se_flax.load_run`."""
    run = load_run(workdir, step, seed)
    model = read_config(to_path(workdir)).model
    return TrainedNetwork(
        name=model.name,
        overrides=model.overrides.to_dict(),
        network=run.network,
        variables=run.variables,
        preparation=run.preparation,
        class_names=run.classes,
        step=run.step,
        loss=run.loss,
        multi_label=run.multi_label,
    )


def network_of_weights(name: str, weights: str | pathlib.Path | None = None) -> TrainedNetwork:
    """Returns a network with published weights, without an auxiliary classifier.

    Args:
        name: a name in `list_models()`.
        weights: a `source` for `load_pretrained`; by default the first in the catalogue.

    Raises:
        UserError: if the weights cannot be read or are not the network's.
    """
    weights = source_of_weights(name, weights)
    overrides = {"auxiliary": False} if has_auxiliary(name) else {}
    fields, variables = load_with_fields(name, weights, **overrides)
    return TrainedNetwork(
        name=name,
        overrides=fields,
        network=create_model(name, len(variables["params"]["classifier"]["bias"]), **fields),
        variables=variables,
        preparation=preparation_for(name, weights),
        class_names=class_names(weights),
        **meaning_of_logits(weights),
    )
