"""A run restored from its checkpoint, for evaluation and analysis."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from se_flax.config import build_model, check_config, check_named_dataset
from se_flax.data.dataset import RunDataset
from se_flax.data.folders import ImageFolder
from se_flax.data.label_file import LabelFile, label_path
from se_flax.detection.average_precision import check_pycocotools
from se_flax.detection.create import is_detector
from se_flax.detection.from_config import annotated_folder, no_images
from se_flax.errors import UserError
from se_flax.images_of_run import preparation_of_run, prepared_alike
from se_flax.models import Preparation
from se_flax.program import Program, build_program, dataset_of_run
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.runtime.paths import Path, to_path
from se_flax.seeds import metrics_to_choose_by
from se_flax.task import metric_to_choose_by
from se_flax.workdir import has_checkpoint, read_config


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run restored from its checkpoint. It has one network per seed.

    Attributes:
        program: built from the run's config, and its data set or the one given instead.
        model: the network's module.
        state: state from the checkpoint, or from the best checkpoint of each network.
        steps: step of each network's state.
        splits: names of the splits it can be evaluated on. Version 0.1 held out different images,
            so a run of 0.1 with held-out images can be evaluated only on its test split.
    """

    program: Program
    model: nn.Module
    state: Any
    steps: list[int]
    splits: tuple[str, ...]

    @property
    def seeds(self) -> list[int]:
        """The seed of each network."""
        return list(self.program.networks.seeds)

    def variables(self) -> list[dict[str, Any]]:
        """Returns the variables of each network."""
        return self.program.networks.variables(self.state)

    def place_of(self, seed: int | None) -> int:
        """Returns the index of the network with a seed; without one, of the first.

        Raises:
            UserError: if no network has this seed.
        """
        if seed is not None and seed not in self.seeds:
            known = ", ".join(map(str, self.seeds))
            raise UserError(f"the run has no seed {seed}; it has {known}")
        return 0 if seed is None else self.seeds.index(seed)

    def check_split(self, split: str) -> None:
        """Raises `UserError` if the run has no split of this name."""
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise UserError(f'the run has no split "{split}"; its splits are {known}')


def restore_run(
    workdir: str | os.PathLike[str],
    step: str | int = "best",
    dataset: RunDataset | None = None,
    data_dir: str | None = None,
    image_dir: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
    labels: str | os.PathLike[str] | None = None,
) -> RestoredRun:
    """Restores a run; for arguments and errors see `se_flax.evaluate.evaluate_workdir`."""
    workdir = to_path(workdir)
    if is_detector(read_config(workdir).model.name):
        check_pycocotools()
        if labels is not None or skip_bad:
            given = "--labels" if labels is not None else "--skip_bad"
            raise UserError(f"{given} has no effect on a detector; leave it out")
    if image_dir is None:
        config = _config_of(workdir, data_dir, names_dataset=dataset is None)
        return _restored(workdir, config, step, lambda _: _own_images(config, dataset))
    config = _config_of(workdir, data_dir, names_dataset=False)

    def images(progress: Mapping[str, Any]) -> RunDataset:
        names = tuple(progress["class_names"])
        if is_detector(config.model.name):
            return annotated_folder(config, str(image_dir), names)
        source = _other_images(config, to_path(image_dir), labels, names).checked(skip_bad)
        prepared = preparation_of_run(workdir, config, progress)
        return prepared_alike(str(image_dir), source, prepared, config.dataset.workers)

    return _restored(workdir, config, step, images)


def _other_images(
    config: ConfigDict,
    image_dir: Path,
    labels: str | os.PathLike[str] | None,
    class_names: tuple[str, ...],
) -> ImageFolder:
    """Returns images in another folder than the run's, with the classes of the run."""
    upright = config.dataset.exif_orientation
    if labels is not None:
        separator = config.dataset.label_separator
        file = LabelFile.read(label_path(image_dir, labels), separator, class_names)
        file.check(config.dataset.multi_label)
        split = "val" if {"train", "val"} <= set(file.splits) else None
        return file.images(image_dir, split, upright)
    if config.dataset.multi_label:
        raise UserError(
            f"the run was trained on images of several classes, which the folders of {image_dir} "
            "do not show; give a CSV file with --labels=FILE (see se_flax.data.label_file)"
        )
    return ImageFolder.of(image_dir, class_names, upright)


def restore_without_images(
    workdir: Path, step: str | int = "best", dataset: RunDataset | None = None
) -> tuple[RestoredRun, Preparation]:
    """Restores a run, and how it prepares images, without its data set.

    Args:
        workdir: of the run.
        step: "best", "latest" or the step of a checkpoint.
        dataset: the run's data set, which only runs of earlier versions may need (see
            `images_of_run.preparation_of_run`).

    Raises:
        UserError: if the run or checkpoint does not exist, or a run of an earlier version needs
            its data set.
    """
    config = _config_of(workdir, None, names_dataset=False)
    if is_detector(config.model.name):
        raise UserError(
            f"{workdir} has the detector {config.model.name}, but this needs a network for "
            "classification; se_flax.detection.load_run opens a detector"
        )
    found: list[Preparation] = []

    def images(progress: Mapping[str, Any]) -> RunDataset:
        found.append(preparation_of_run(workdir, config, progress, dataset))
        names = tuple(progress["class_names"])
        labels = np.zeros((0, len(names)), np.uint8) if config.dataset.multi_label else ()
        nothing = ImageFolder(workdir, names, (), labels)
        return prepared_alike(config.dataset.name, nothing, found[0])

    return _restored(workdir, config, step, images), found[0]


def restore_detector(workdir: Path, step: str | int = "best") -> RestoredRun:
    """Restores a detector's run without its data set; for arguments see `restore_without_images`.

    Raises:
        UserError: if the run or checkpoint does not exist, or the run has no detector.
    """
    config = _config_of(workdir, None, names_dataset=False)
    if not is_detector(config.model.name):
        raise UserError(
            f"{workdir} has no detector but a {config.model.name}; se_flax.load_run opens it"
        )
    return _restored(workdir, config, step, lambda progress: no_images(config, progress))


def _restored(
    workdir: Path,
    config: ConfigDict,
    step: str | int,
    images: Callable[[Mapping[str, Any]], RunDataset],
) -> RestoredRun:
    """Restores a run with the images that are a function of the plain values in its checkpoint."""
    if not has_checkpoint(workdir):
        raise UserError(f"{workdir} has no checkpoint yet; train the run first")
    seeds = range(config.seed, config.seed + config.num_seeds)
    config.class_weights = ""  # they only act in training
    metrics = metrics_to_choose_by(seeds, metric_to_choose_by(config))
    with Checkpoints(workdir, metrics, read_only=True) as saved:
        steps = _steps(workdir, saved, step, len(seeds))
        progress = saved.progress(steps[0])
        held_out_as_now = "format" in progress or not config.validation_fraction
        dataset = images(progress)
        if not dataset.on_device:
            config.seed_mode = "in_turn"  # the only way for streamed images; it saves the same
        program = build_program(config, dataset)
        if step == "best":
            arrays, steps = saved.restore_best(program.abstract())
        else:
            arrays, _ = saved.restore(program.abstract(), steps[0])
    model = build_model(config, dataset.num_classes)
    splits = tuple(program.sizes) if held_out_as_now else ("test",)
    return RestoredRun(program, model, program.networks.restore(arrays), steps, splits)


def _config_of(workdir: Path, data_dir: str | None, names_dataset: bool) -> ConfigDict:
    """Returns a run's config; with `names_dataset`, checks that its data set can be loaded."""
    config = read_config(workdir)
    if data_dir:
        config.dataset.data_dir = data_dir
    if names_dataset:
        try:
            check_named_dataset(config)
        except UserError as error:
            raise UserError(
                f'{workdir} was trained on "{config.dataset.name}", which cannot be loaded by '
                "name; call se_flax.evaluate.evaluate_workdir(workdir, dataset=...) from Python, "
                "or give images of your own with --image_dir=DIR"
            ) from error
    check_config(config, names_dataset=names_dataset)
    return config


def _own_images(config: ConfigDict, dataset: RunDataset | None) -> RunDataset:
    """Returns a run's data set, or the one given instead."""
    try:
        return dataset_of_run(config, dataset)
    except UserError as error:
        if dataset is not None:
            raise
        raise UserError(
            f"{error}; or, without the data set, give images of your own with --image_dir=DIR"
        ) from error


def _steps(workdir: Path, saved: Checkpoints, step: str | int, count: int) -> list[int]:
    """Returns the step of the requested checkpoint for each network."""
    latest = saved.latest
    chosen = latest if step == "latest" else step
    steps = saved.best if step == "best" else [chosen] * count
    if not steps or not all(str(s).isdigit() and int(s) in saved.steps for s in steps):
        raise UserError(
            f'{workdir} has no checkpoint "{step}"; choose "latest", "best" (after the first '
            f"evaluation), or one of the steps {', '.join(map(str, saved.steps))}"
        )
    return [int(step) for step in steps]
