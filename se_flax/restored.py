"""The checkpoint of a run, ready to be evaluated or looked into."""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from se_flax.config import build_model, check_config
from se_flax.data.dataset import ImageDataset
from se_flax.data.folders import ImageFolder
from se_flax.data.from_config import dataset_of, streamed
from se_flax.data.sources import check_dataset_name, known_datasets
from se_flax.errors import UserError
from se_flax.program import Program, build_program
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.seeds import metrics_to_choose_by
from se_flax.workdir import has_checkpoint, read_config


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run's checkpoint.

    Attributes:
        program: of the run's config, and of its data set or of another one given instead.
        model: the network.
        state: of the checkpoint, or of the best one of each network.
        steps: of the state, for each network.
    """

    program: Program
    model: nn.Module
    state: Any
    steps: list[int]

    @property
    def seeds(self) -> list[int]:
        """The seed of each network."""
        return list(self.program.networks.seeds)

    def variables(self) -> list[dict[str, Any]]:
        """Returns the variables of each network."""
        return self.program.networks.variables(self.state)

    def check_split(self, split: str) -> None:
        """Raises `UserError` if the run has no split of this name."""
        if split not in self.program.sizes:
            known = ", ".join(self.program.sizes)
            raise UserError(f'there is no split "{split}"; known are {known}')


def restore_run(
    workdir: str | pathlib.Path,
    step: str | int = "best",
    dataset: ImageDataset | None = None,
    data_dir: str | None = None,
    image_dir: str | pathlib.Path | None = None,
    skip_bad: bool = False,
) -> RestoredRun:
    """Returns a run's checkpoint; see `se_flax.evaluate.evaluate_workdir`."""
    workdir = pathlib.Path(workdir).expanduser()
    config = _config_of(workdir, data_dir, names_dataset=dataset is None and image_dir is None)
    if not has_checkpoint(workdir):
        raise UserError(f"{workdir} has no checkpoint yet")
    seeds = range(config.seed, config.seed + config.num_seeds)
    with Checkpoints(workdir, metrics_to_choose_by(seeds), read_only=True) as saved:
        steps = _steps(workdir, saved, step, len(seeds))
        if image_dir is not None:
            names = saved.progress(steps[0])["class_names"]
            dataset = _images_of(config, workdir, image_dir, tuple(names), skip_bad)
        else:
            dataset = dataset_of(config) if dataset is None else dataset
            if config.validation_fraction:
                dataset = dataset.hold_out(config.validation_fraction)
        program = build_program(config, dataset)
        if step == "best":
            arrays, steps = saved.restore_best(program.abstract())
        else:
            arrays, _ = saved.restore(program.abstract(), steps[0])
    model = build_model(config, dataset.num_classes)
    return RestoredRun(program, model, program.networks.restore(arrays), steps)


def _config_of(workdir: pathlib.Path, data_dir: str | None, names_dataset: bool) -> ConfigDict:
    """Returns the config of a run, which may have to name its data set."""
    config = read_config(workdir)
    if data_dir:
        config.dataset.data_dir = data_dir
    if names_dataset and not config.dataset.image_dir:
        try:
            check_dataset_name(config.dataset.name)
        except UserError as error:
            raise UserError(
                f'{workdir} was trained on "{config.dataset.name}", which is not read by name; '
                "call se_flax.evaluate.evaluate_workdir(workdir, dataset=...) from Python"
            ) from error
    check_config(config, names_dataset=names_dataset)
    return config


def _steps(workdir: pathlib.Path, saved: Checkpoints, step: str | int, count: int) -> list[int]:
    """Returns the step of the checkpoint that is asked for, for each network."""
    latest = saved.latest
    chosen = latest if step == "latest" else step
    steps = saved.best if step == "best" else [chosen] * count
    if not steps or not all(str(s).isdigit() and int(s) in saved.steps for s in steps):
        raise UserError(
            f'{workdir} has no checkpoint "{step}"; it has "latest", "best" once it was '
            f"evaluated, and the steps {', '.join(map(str, saved.steps))}"
        )
    return [int(step) for step in steps]


def _images_of(
    config: ConfigDict,
    workdir: pathlib.Path,
    image_dir: str | pathlib.Path,
    class_names: tuple[str, ...],
    skip_bad: bool,
) -> ImageDataset:
    """Returns the images of a folder, prepared as those of a run."""
    if not config.dataset.image_dir and config.dataset.name in known_datasets():
        raise UserError(
            f'{workdir} was trained on "{config.dataset.name}", whose images are held in '
            "memory and not prepared as those of a folder are; --image_dir is for runs on "
            "streamed images"
        )
    source = ImageFolder.of(image_dir, class_names).checked(skip_bad)
    return streamed(config, str(image_dir), source, source)
