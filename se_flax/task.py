"""What the networks of a run learn to do, as the rest of a run sees it."""

from collections.abc import Callable
from typing import Any, Protocol

import optax
from ml_collections import ConfigDict
from PIL import Image

from se_flax.data.dataset import Inputs
from se_flax.detection.create import is_detector
from se_flax.label_metrics import chosen_by
from se_flax.metrics import Sums
from se_flax.seeds import Evaluate, Step
from se_flax.state import TrainState


class Task(Protocol):
    """A task on a data set: classification or detection.

    Attributes:
        metrics: the class of the training metrics.
    """

    metrics: type[Sums]

    def functions(
        self, config: ConfigDict, learning_rate: optax.Schedule
    ) -> tuple[Callable[[Any], TrainState], Step, Evaluate]:
        """Returns the functions of one network and one device's share that a run consists of.

        They are `init(seed)`, `step(state, (hyperparameters, images), own)` and
        `evaluate(variables, images, own)`, where `images` and `own` are the inputs that the feeds
        of the data set give: those that all devices share, and those of one device.
        """

    def published(self, config: ConfigDict) -> dict[str, Any]:
        """Returns the variables of `config.init_from`, without those that are to be new.

        Raises:
            UserError: if the weights cannot be used.
        """

    def results(self, total: Any, split: str) -> dict[str, float]:
        """Returns the results of an evaluation, given the sum of what `evaluate` returned."""

    def draw_inputs(self, config: ConfigDict, inputs: Inputs, seed: int, step: int) -> Image.Image:
        """Draws the first training images of a step, given its inputs."""

    def draw_results(self, total: Any, split: str) -> Image.Image | None:
        """Draws what a network found in the first images of an evaluation, if it is to be drawn."""


def metric_to_choose_by(config: ConfigDict) -> str:
    """Returns the name of the metric by which a run's best checkpoint is chosen."""
    if is_detector(config.model.name):
        return "AP"
    return chosen_by(config.dataset.multi_label)
