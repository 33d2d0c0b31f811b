"""Classification of images, the task that most networks are trained for."""

import dataclasses
import functools
from typing import Any

import optax
from ml_collections import ConfigDict
from PIL import Image

from se_flax.class_weights import class_weights_of
from se_flax.config import build_model
from se_flax.data.dataset import ImageDataset, Inputs, is_multi_label
from se_flax.data.grid import draw_inputs
from se_flax.data.preprocessing import Preprocessing
from se_flax.init_from import published_variables
from se_flax.label_metrics import kind_of_metrics
from se_flax.metrics import Sums
from se_flax.optim import in_classifier, make_optimizer
from se_flax.parallel import AXIS
from se_flax.state import create_state
from se_flax.step import make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Classification:
    """The classification of a data set's images (see `task.Task`).

    Attributes:
        dataset: the data set.
    """

    dataset: ImageDataset

    @property
    def metrics(self) -> type[Sums]:
        """The class of the training metrics."""
        return kind_of_metrics(is_multi_label(self.dataset))

    def functions(self, config: ConfigDict, learning_rate: optax.Schedule):
        """See `Task`."""
        dataset = self.dataset
        model = build_model(config, dataset.num_classes, AXIS if config.sync_batch_norm else None)
        trained = in_classifier if config.freeze_backbone else None
        optimizer = make_optimizer(config.optimizer, learning_rate, trained)
        preprocessing = Preprocessing.of(dataset, config.augment)
        make_step = functools.partial(
            make_train_step,
            model,
            loss=config.loss,
            label_smoothing=config.label_smoothing,
            class_weights=class_weights_of(config, dataset),
            auxiliary_weight=config.auxiliary_weight,
            ema_decay=config.ema_decay,
            freeze_backbone=config.freeze_backbone,
            accumulate_steps=config.accumulate_steps,
        )
        eval_step = make_eval_step(model, config.loss)

        def init(seed):
            return create_state(model, optimizer, dataset.image_shape, seed, config.ema_decay > 0)

        def step(state, shared, own):
            given, images = shared
            batch = dataset.train_batch(
                preprocessing, config.batch_size, images, own, state.seed, state.step
            )
            optimizer = make_optimizer(
                config.optimizer,
                lambda update: given.learning_rates[update],
                trained,
                given.weight_decay,
            )
            return make_step(optimizer)(state, batch)

        def evaluate(variables, shared, own):
            return eval_step(variables, dataset.eval_batch(preprocessing, shared, own))

        return init, step, evaluate

    def published(self, config: ConfigDict) -> dict[str, Any]:
        """See `Task`."""
        overrides = config.model.overrides.to_dict()
        name, source = config.model.name, config.init_from
        return published_variables(name, source, self.dataset.num_classes, overrides)

    def results(self, total: Any, split: str) -> dict[str, float]:
        """See `Task`."""
        return total.means()

    def draw_inputs(self, config: ConfigDict, inputs: Inputs, seed: int, step: int) -> Image.Image:
        """See `Task`; the images are drawn before their augmentation on the devices."""
        return draw_inputs(self.dataset, inputs, config.batch_size, seed, step)

    def draw_results(self, total: Any, split: str) -> None:
        """See `Task`; nothing is drawn."""
