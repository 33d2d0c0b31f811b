"""What a run recorded of the training of its network."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from se_flax.runtime.paths import Path
from se_flax.workdir import read_config

# Title and id on the Hugging Face hub of data sets, by their names in TFDS.
_DATASETS = {
    "cifar10": ("CIFAR-10", "uoft-cs/cifar10"),
    "cifar100": ("CIFAR-100", "uoft-cs/cifar100"),
    "fashion_mnist": ("Fashion-MNIST", "zalando-datasets/fashion_mnist"),
    "imagenet2012": ("ImageNet", "ILSVRC/imagenet-1k"),
    "mnist": ("MNIST", "ylecun/mnist"),
    "svhn_cropped": ("SVHN", "ufldl-stanford/svhn"),
}


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run recorded of the training of its network.

    Attributes:
        config: the run's config.
        summary: the content of its `summary.json`; {} if the run is not complete.
        seed: seed of the network.
        state: the entry of the summary that the network is, "best" or "final"; None if it is of
            another step.
    """

    config: ConfigDict
    summary: Mapping[str, Any]
    seed: int
    state: str | None

    @property
    def results(self) -> dict[str, float]:
        """The network's results on the test images, such as "top1" in percent; {} if unknown."""
        if self.state is None:
            return {}
        (own,) = (each for each in self.summary["per_seed"] if each["seed"] == self.seed)
        return {name: value for name, value in own[self.state].items() if name != "step"}

    @property
    def dataset(self) -> tuple[str, str | None]:
        """The title of the data set, and its id on the hub if that is known.

        A folder of images is named without its parents.
        """
        if self.config.dataset.image_dir:
            return pathlib.PurePath(self.config.dataset.image_dir).name, None
        name = self.config.dataset.name
        return _DATASETS.get(name, (name, None))


def record_of(workdir: Path, step: int, seed: int | None) -> Record:
    """Returns what a run recorded of the network of a step and a seed, by default the first.

    Raises:
        UserError: if the workdir holds no run.
    """
    config = read_config(workdir)
    seed = config.seed if seed is None else seed
    summary = _summary(workdir)
    own = next((each for each in summary.get("per_seed", []) if each["seed"] == seed), {})
    states = (state for state in ("best", "final") if own.get(state, {}).get("step") == step)
    return Record(config, summary, seed, next(states, None))


def _summary(workdir: Path) -> dict[str, Any]:
    try:
        return json.loads((workdir / "summary.json").read_text())
    except (OSError, ValueError):  # the run is not complete
        return {}
