"""Classification of images, the task that most networks are trained for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict
from PIL import Image

from se_flax.class_weights import class_weights_of
from se_flax.config import build_model
from se_flax.data.dataset import ImageDataset, Inputs, is_multi_label
from se_flax.data.from_config import preprocessing_of
from se_flax.data.grid import draw_inputs
from se_flax.init_from import published_variables
from se_flax.label_metrics import kind_of_metrics
from se_flax.metrics import Sums
from se_flax.optim import in_classifier
from se_flax.parallel import AXIS
from se_flax.seeds import Evaluate, Step
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

    def model(self, config: ConfigDict) -> nn.Module:
        """See `Task`."""
        axis = AXIS if config.sync_batch_norm else None
        return build_model(config, self.dataset.num_classes, axis)

    def trained(self, config: ConfigDict, model: nn.Module) -> Callable[[Any], Any] | None:
        """See `Task`."""
        return in_classifier if config.freeze_backbone else None

    def make_step(self, config: ConfigDict, model: nn.Module) -> Callable[..., Step]:
        """See `Task`."""
        dataset, preprocessing = self.dataset, preprocessing_of(config, self.dataset)
        class_weights = class_weights_of(config, dataset)

        def make(optimizer):
            train_step = make_train_step(
                model,
                optimizer,
                loss=config.loss,
                label_smoothing=config.label_smoothing,
                class_weights=class_weights,
                target_threshold=config.target_threshold,
                auxiliary_weight=config.auxiliary_weight,
                ema_decay=config.ema_decay,
                freeze_backbone=config.freeze_backbone,
                accumulate_steps=config.accumulate_steps,
            )

            def step(state, images, own):
                batch = dataset.train_batch(
                    preprocessing, config.batch_size, images, own, state.seed, state.step
                )
                return train_step(state, batch)

            return step

        return make

    def evaluate(self, config: ConfigDict, model: nn.Module) -> Evaluate:
        """See `Task`."""
        preprocessing = preprocessing_of(config, self.dataset)
        eval_step = make_eval_step(model, config.loss)

        def evaluate(variables, images, own):
            return eval_step(variables, self.dataset.eval_batch(preprocessing, images, own))

        return evaluate

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
