"""Builds the compiled steps of a run, and their inputs, from a config and a data set."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from PIL import Image

from se_flax.classification import Classification
from se_flax.config import check_held_in_memory
from se_flax.data.dataset import (
    EvalFeed,
    RunDataset,
    TrainFeed,
    check_labels,
    normalized_by,
    repeating,
)
from se_flax.data.from_config import dataset_of
from se_flax.detection.create import is_detector
from se_flax.detection.dataset import DetectionDataset
from se_flax.detection.from_config import detection_dataset_of
from se_flax.detection.task import Detection
from se_flax.errors import UserError
from se_flax.init_from import unset_preparation, with_published
from se_flax.metrics import Sums
from se_flax.optim import (
    Hyperparameters,
    learning_rate_schedule,
    learning_rate_table,
    peak_learning_rate,
)
from se_flax.parallel import replicate
from se_flax.plan import Plan
from se_flax.runtime.distributed import from_first
from se_flax.runtime.paths import Path
from se_flax.seeds import AtOnce, InTurn, Networks, shapes_of_one
from se_flax.stages import check_stages_of, train_sizes
from se_flax.state import TrainState
from se_flax.task import Task, functions_of


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled steps of a run, and their inputs. A state holds all networks of the run.

    Attributes:
        config: the run's config.
        dataset: the run's data set.
        task: what the networks learn.
        networks: the networks that are trained, one per seed.
        plan: when the run logs, evaluates and saves.
        selection: the split on which the best checkpoint is chosen: "validation" if the data set
            has one, otherwise "test".
        learning_rate: the learning rate as a function of the step.
        make_feeds: makes the inputs of the training steps.
    """

    config: ConfigDict
    dataset: RunDataset
    task: Task
    networks: Networks
    plan: Plan
    selection: str
    learning_rate: optax.Schedule
    make_feeds: Callable[[], tuple[TrainFeed, ...]]

    @functools.cached_property
    def feeds(self) -> tuple[TrainFeed, ...]:
        """The inputs of the training steps, made when they are first needed."""
        return self.make_feeds()

    @functools.cached_property
    def _hyperparameters(self) -> Hyperparameters:
        rates = learning_rate_table(self.learning_rate, self.plan.total_steps)
        weight_decay = jnp.float32(self.config.optimizer.weight_decay)
        return replicate(Hyperparameters(rates, weight_decay))

    @functools.cached_property
    def _eval_feeds(self) -> dict[str, EvalFeed]:
        return {}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        return {name: len(split) for name, split in self.dataset.splits.items()}

    @property
    def images_per_step(self) -> int:
        """Images per step, summed over all networks."""
        return self.config.batch_size * len(self.networks.seeds)

    def abstract(self) -> TrainState:
        """Returns the shapes and types of the saved state.

        Raises:
            UserError: if the network cannot be built for these images.
        """
        try:
            abstract = self.networks.abstract()
            self._try_train_sizes(shapes_of_one(abstract, self.networks.seeds))
            return abstract
        except (TypeError, ValueError, AttributeError, flax.errors.FlaxError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                "the network cannot be built; check config.model.overrides and the size of the "
                f"images: {reason}"
            ) from error

    def _try_train_sizes(self, one: TrainState) -> None:
        """Applies a network, of abstract arrays, to images of the sizes that only training has."""
        height, _, channels = self.dataset.image_shape
        for size in sorted({*train_sizes(self.dataset)} - {height}):
            images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
            apply = functools.partial(self.task.model(self.config).apply, train=False)
            jax.eval_shape(apply, {"params": one.params, "batch_stats": one.batch_stats}, images)

    def compiling(self, step: int) -> str:
        """Returns what is being done while the step is compiled that starts at `step`."""
        sizes = train_sizes(self.dataset)
        if len(sizes) < 2:
            return "compiling the training step"
        size = sizes[self.plan.stage(step)]
        return f"compiling the training step for images of {size}x{size}"

    def steps_left(self, step: int) -> float:
        """Returns the work left after a step, as a number of steps of the current stage."""
        return self.plan.steps_left(step, [size**2 for size in train_sizes(self.dataset)] or [1])

    def initial_state(self) -> Any:
        """Returns the state the run starts with, on the devices.

        Raises:
            UserError: if the weights of `config.init_from` cannot be used.
        """
        state = self.networks.init()
        if self.config.init_from:
            variables = self.task.published(self.config)
            state = self.networks.map(lambda one: replicate(with_published(one, variables)), state)
        return state

    def train(self, state: Any, step: int, num_steps: int) -> tuple[Any, Any]:
        """Returns the state after some steps, and the sums for `metrics`. Donates the old state.

        Args:
            state: the state.
            step: the step that the state is at.
            num_steps: how many steps to take.
        """
        inputs = [feed.inputs(step) for feed in self.feeds]
        given = self._hyperparameters.replace(stage=self.plan.stage(step))
        inputs = [((given, shared), own) for shared, own in inputs]
        state, sums = self.networks.train(state, inputs, num_steps)
        for feed in self.feeds:
            feed.prefetch(step + num_steps)
        return state, sums

    def metrics(self, sums: Any) -> list[Sums]:
        """Waits for the metrics of `train`, and returns those of each network."""
        return self.networks.metrics(sums)

    def evaluated(self, state: Any, split: str) -> list[Any]:
        """Returns the sum of what `evaluate` of the task gives for each network.

        It is over exactly the images of a split.
        """
        if split not in self._eval_feeds:
            feed = self.dataset.eval_feed(split, self.config.eval_batch_size)
            self._eval_feeds[split] = feed
        return self.networks.evaluate(state, self._eval_feeds[split])

    def evaluate(self, state: Any, split: str) -> list[dict[str, float]]:
        """Returns the metrics of each network over exactly the images of a split."""
        return self.results(self.evaluated(state, split), split)

    def results(self, totals: Sequence[Any], split: str) -> list[dict[str, float]]:
        """Returns the metrics of each network, given what `evaluated` returned."""
        return [self.task.results(each, split) for each in totals]

    def draw_inputs(self, step: int) -> Image.Image:
        """Draws the first training images of a step."""
        inputs, seed = self.feeds[0].inputs(step), self.networks.seeds[0]
        return self.task.draw_inputs(self.config, inputs, seed, step)

    def draw_results(self, totals: Sequence[Any], split: str) -> Image.Image | None:
        """Draws what the first network found, given what `evaluated` returned."""
        return self.task.draw_results(totals[0], split)

    def close(self) -> None:
        """Stops reading images ahead."""
        if "feeds" in vars(self):
            for feed in self.feeds:
                feed.close()


def dataset_of_run(config: ConfigDict, dataset: RunDataset | None = None) -> RunDataset:
    """Returns the data set of a run, with the validation split that its config asks for.

    Args:
        config: the run's config.
        dataset: used instead of the data set that the config names.

    Raises:
        UserError: see `dataset_of`, `check_labels`, `normalized_by`, `check_stages_of` and
            `repeating`; also if the config sets a field that has no effect on this data set, or the
            validation split cannot be held out.
    """
    if dataset is None:
        load = detection_dataset_of if is_detector(config.model.name) else dataset_of
        dataset = load(config)
    check_labels(dataset, config.dataset.multi_label)
    if dataset.on_device:
        check_held_in_memory(config, dataset.name)
    if config.dataset.mean:
        dataset = normalized_by(dataset, tuple(config.dataset.mean), tuple(config.dataset.std))
    check_stages_of(dataset, config.progressive.stages)
    dataset = repeating(dataset, config.augment.repeats)
    return dataset.hold_out(config.validation_fraction) if config.validation_fraction else dataset


def with_preparation(
    config: ConfigDict, workdir: Path | None = None, dataset: RunDataset | None = None
) -> ConfigDict:
    """Returns a config that says how its images are prepared, the same on all processes.

    For arguments and errors see `init_from.unset_preparation`.
    """
    config = config.copy_and_resolve_references()
    unset = from_first(lambda: unset_preparation(config, workdir, dataset))
    for field, value in unset.items():
        config.dataset[field] = tuple(value) if isinstance(value, list) else value
    return config


def build_program(config: ConfigDict, dataset: RunDataset) -> Program:
    """Returns the program that runs a config on a data set; compiles nothing yet.

    Raises:
        UserError: if the seeds cannot be trained as `config.seed_mode` says, the run sees more than
            2^31 - 1 images, or the class weights do not fit the classes.
    """
    plan = plan_of(config, dataset)
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    learning_rate = learning_rate_schedule(
        config.schedule, peak, config.num_epochs, plan.steps_per_epoch
    )
    seeds = range(config.seed, config.seed + config.num_seeds)
    at_once = _at_once(config, dataset)
    task = task_of(dataset)
    functions = functions_of(task, config, learning_rate)
    networks = (AtOnce if at_once else InTurn)(seeds, *functions)
    return Program(
        config=config,
        dataset=dataset,
        task=task,
        networks=networks,
        plan=plan,
        selection="validation" if "validation" in dataset.splits else "test",
        learning_rate=learning_rate,
        make_feeds=functools.partial(
            _feeds,
            dataset,
            config.batch_size,
            seeds[:1] if at_once else seeds,
            plan.total_steps,
        ),
    )


def task_of(dataset: RunDataset) -> Task:
    """Returns the task of a run on a data set."""
    return Detection(dataset) if isinstance(dataset, DetectionDataset) else Classification(dataset)


def plan_of(config: ConfigDict, dataset: RunDataset) -> Plan:
    """Returns when a run logs, evaluates and saves; see `build_program`."""
    steps_per_epoch = max(1, round(len(dataset.splits["train"]) / config.batch_size))
    steps_per_dispatch = 1
    if dataset.on_device:
        steps_per_dispatch = config.steps_per_dispatch or default_steps_per_dispatch(
            steps_per_epoch
        )
    plan = Plan(
        num_epochs=config.num_epochs,
        steps_per_epoch=steps_per_epoch,
        steps_per_dispatch=steps_per_dispatch,
        log_every_steps=config.log_every_steps,
        eval_every_epochs=config.eval_every_epochs,
        checkpoint_every_minutes=config.checkpoint_every_minutes,
        num_stages=config.progressive.stages,
    )
    if plan.total_steps * config.batch_size >= 2**31:
        raise UserError(
            f"config.num_epochs={config.num_epochs} makes a run of "
            f"{plan.total_steps * config.batch_size:,} images; use fewer epochs, so that it sees "
            "at most 2,147,483,647"
        )
    return plan


def _at_once(config: ConfigDict, dataset: RunDataset) -> bool:
    """Whether the networks take each step together."""
    if config.num_seeds == 1:
        return False
    if config.seed_mode == "vmap" and not dataset.on_device:
        raise UserError(
            f"the images of {dataset.name} are streamed, in a different order for each seed, so "
            'the seeds cannot be computed at once; use config.seed_mode="in_turn"'
        )
    if config.seed_mode == "auto":
        # Elsewhere, convolutions with several kernels at once are slow: they take many times
        # longer to run on a CPU, and minutes to compile on a GPU.
        return dataset.on_device and jax.default_backend() == "tpu"
    return config.seed_mode == "vmap"


def _feeds(
    dataset: RunDataset, batch_size: int, seeds: range, total_steps: int
) -> tuple[TrainFeed, ...]:
    if dataset.on_device:  # all networks take the same inputs
        return (dataset.train_feed(batch_size, seeds[0], total_steps),) * len(seeds)
    return tuple(dataset.train_feed(batch_size, seed, total_steps, len(seeds)) for seed in seeds)


def default_steps_per_dispatch(steps_per_epoch: int, platform: str | None = None) -> int:
    """Returns how many steps to give the devices at once.

    On a CPU it is one, because XLA runs convolutions many times slower inside a loop. Elsewhere
    it is large enough to hide the host's work. If possible it divides the epoch, so that only one
    program is compiled.

    Args:
        steps_per_epoch: steps of an epoch.
        platform: "cpu", "gpu" or "tpu"; None for that of this process.
    """
    if (platform or jax.default_backend()) == "cpu":
        return 1
    divisors = [n for n in range(16, 129) if steps_per_epoch % n == 0]
    return max(divisors, default=64)
