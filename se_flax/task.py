"""What the networks of a run learn to do, as the rest of a run sees it."""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import optax
from ml_collections import ConfigDict
from PIL import Image

from se_flax.data.dataset import Inputs, RunDataset
from se_flax.detection.create import is_detector
from se_flax.label_metrics import chosen_by
from se_flax.metrics import Sums
from se_flax.optim import make_optimizer
from se_flax.seeds import Evaluate, Step
from se_flax.stages import configs_of_stages
from se_flax.state import TrainState, create_state


class Task(Protocol):
    """A task on a data set: classification or detection.

    Attributes:
        metrics: the class of the training metrics.
    """

    metrics: type[Sums]

    @property
    def dataset(self) -> RunDataset:
        """The data set."""

    def model(self, config: ConfigDict) -> nn.Module:
        """Returns the network that a config asks for."""

    def trained(self, config: ConfigDict, model: nn.Module) -> Callable[[Any], Any] | None:
        """Returns which parameters are updated; see `make_optimizer`."""

    def make_step(self, config: ConfigDict, model: nn.Module) -> Callable[..., Step]:
        """Returns a function of the optimiser that makes the training step.

        The step is `step(state, images, own)`, where `images` and `own` are the inputs that the
        feeds of the data set give: those that all devices share, and those of one device.
        """

    def evaluate(self, config: ConfigDict, model: nn.Module) -> Evaluate:
        """Returns `evaluate(variables, images, own)` for a batch; see `make_step`."""

    def published(self, config: ConfigDict) -> dict[str, Any]:
        """Returns the variables of `config.init_from`, without those that are to be new.

        Raises:
            UserError: if the weights cannot be used.
        """

    def results(self, total: Any, split: str) -> dict[str, float]:
        """Returns the results of an evaluation, given the sum of what its batches gave."""

    def draw_inputs(self, config: ConfigDict, inputs: Inputs, seed: int, step: int) -> Image.Image:
        """Draws the first training images of a step, given its inputs."""

    def draw_results(self, total: Any, split: str) -> Image.Image | None:
        """Draws what a network found in the first images of an evaluation, if it is to be drawn."""


def functions_of(
    task: Task, config: ConfigDict, learning_rate: optax.Schedule
) -> tuple[Callable[[Any], TrainState], Step, Evaluate]:
    """Returns the functions of one network and one device's share that a run consists of.

    They are `init(seed)`, `step(state, (hyperparameters, images), own)` and
    `evaluate(variables, images, own)`. What `images` and `own` are, see `Task.make_step`.

    Args:
        task: of the run.
        config: of the run.
        learning_rate: the learning rate as a function of the step, for the initial state.
    """
    model = task.model(config)
    trained = task.trained(config, model)
    make_steps = [task.make_step(each, task.model(each)) for each in configs_of_stages(config)]
    optimizer = make_optimizer(config.optimizer, learning_rate, trained)

    def init(seed):
        return create_state(model, optimizer, task.dataset.image_shape, seed, config.ema_decay > 0)

    def step(state, shared, own):
        given, images = shared
        optimizer = make_optimizer(
            config.optimizer,
            lambda update: given.learning_rates[update],
            trained,
            given.weight_decay,
        )
        return make_steps[given.stage](optimizer)(state, images, own)

    return init, step, task.evaluate(config, model)


def metric_to_choose_by(config: ConfigDict) -> str:
    """Returns the name of the metric by which a run's best checkpoint is chosen."""
    if is_detector(config.model.name):
        return "AP"
    return chosen_by(config.dataset.multi_label)
