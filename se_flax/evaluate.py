"""Evaluates a run's checkpoint, or published weights.

python -m se_flax.evaluate --workdir=runs/quickstart
python -m se_flax.evaluate --model=se_resnet50_caffe --image_dir=imagenet/val
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

from se_flax.cli.command import parse_flags, run_command
from se_flax.config import build_model, check_config
from se_flax.data import Dataset
from se_flax.data.folders import ImageFolder
from se_flax.data.from_config import dataset_of, streamed
from se_flax.data.images import CenterCrop
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.sources import TfdsImages, check_dataset_name, known_datasets
from se_flax.data.streaming import ImageSource, StreamedDataset, eval_batches
from se_flax.errors import UserError
from se_flax.models import create_model, list_models, model_info
from se_flax.models.registry import ModelInfo, Published
from se_flax.pretrained import load_pretrained
from se_flax.pretrained.catalogue import FIGURES, PublishedWeights, find_weights
from se_flax.runtime.checkpoints import Checkpoints
from se_flax.runtime.progress import format_results
from se_flax.state import TrainState, replicate
from se_flax.steps import evaluate_batches, make_eval_step, pmap_eval_images
from se_flax.train import (
    Program,
    build_program,
    mean_over_seeds,
    of_seed,
    one_or_all,
    top1_names,
)
from se_flax.workdir import has_checkpoint, read_config


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run's checkpoint.

    Attributes:
        config: of the run.
        dataset: its own, or what was given instead.
        program: of both.
        model: the network.
        state: of the checkpoint, or of those of each seed.
        steps: of the state, for each seed.
    """

    config: ConfigDict
    dataset: Dataset | StreamedDataset
    program: Program
    model: nn.Module
    state: TrainState
    steps: list[int]

    def check_split(self, split: str) -> None:
        """Raises `UserError` if the run has no split of this name."""
        if split not in self.program.sizes:
            known = ", ".join(self.program.sizes)
            raise UserError(f'there is no split "{split}"; known are {known}')


def restore_run(
    workdir: str | pathlib.Path,
    step: str | int = "best",
    dataset: Dataset | StreamedDataset | None = None,
    data_dir: str | None = None,
    image_dir: str | pathlib.Path | None = None,
    skip_bad: bool = False,
) -> RestoredRun:
    """Returns a run's checkpoint; for arguments and errors, see `evaluate_workdir`."""
    workdir = pathlib.Path(workdir).expanduser()
    config = read_config(workdir)
    if data_dir:
        config.dataset.data_dir = data_dir
    named = dataset is None and image_dir is None
    if named and not config.dataset.image_dir:
        try:
            check_dataset_name(config.dataset.name)
        except UserError as error:
            raise UserError(
                f'{workdir} was trained on "{config.dataset.name}", which is not read by name; '
                "call se_flax.evaluate.evaluate_workdir(workdir, dataset=...) from Python"
            ) from error
    check_config(config, names_dataset=named)
    if not has_checkpoint(workdir):
        raise UserError(f"{workdir} has no checkpoint yet")

    seeds = range(config.seed, config.seed + config.num_seeds)
    saved = Checkpoints(workdir, top1_names(seeds), read_only=True)
    try:
        chosen = {"latest": saved.latest}.get(step, step)
        steps = saved.best if step == "best" else [chosen] * len(seeds)
        if not steps or not all(str(s).isdigit() and int(s) in saved.steps for s in steps):
            raise UserError(
                f'{workdir} has no checkpoint "{step}"; it has "latest", "best" once it was '
                f"evaluated, and the steps {', '.join(map(str, saved.steps))}"
            )
        if image_dir is not None:
            if not config.dataset.image_dir and config.dataset.name in known_datasets():
                raise UserError(
                    f'{workdir} was trained on "{config.dataset.name}", whose images are held in '
                    "memory and not prepared as those of a folder are; --image_dir is for runs on "
                    "streamed images"
                )
            class_names = saved.progress(int(steps[0]))["class_names"]
            source = ImageFolder.of(image_dir, tuple(class_names)).checked(skip_bad)
            dataset = streamed(config, str(image_dir), source, source)
        elif dataset is None:
            dataset = dataset_of(config)
        if config.validation_fraction and image_dir is None:
            dataset = dataset.hold_out(config.validation_fraction)
        program = build_program(config, dataset)
        abstract_state = jax.eval_shape(program.initial_state)
        if step == "best":
            state, steps = saved.restore_best(abstract_state)
        else:
            state, _ = saved.restore(abstract_state, int(chosen))
        state = replicate(state)
    finally:
        saved.close()
    model = build_model(config, dataset.num_classes)
    return RestoredRun(config, dataset, program, model, state, [int(step) for step in steps])


def evaluate_workdir(
    workdir: str | pathlib.Path,
    step: str | int = "best",
    split: str = "test",
    dataset: Dataset | StreamedDataset | None = None,
    data_dir: str | None = None,
    image_dir: str | pathlib.Path | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Returns loss and top-1/3/5 of a checkpoint over exactly the images of a split.

    Args:
        workdir: the folder of a run.
        step: "best", "latest" or the step of a checkpoint.
        split: "test", "train" (not augmented) or, if the run held images out, "validation".
        dataset: what to evaluate on, instead of reading the data set of the run.
        data_dir: where TFDS keeps data, if elsewhere than in the run.
        image_dir: a folder of class folders to evaluate on instead, cropped and normalised as
            the run's own images; its folders are named as the run's classes.
        skip_bad: leave out images of it that cannot be read, instead of raising.

    Returns:
        `loss` in nats, `top1`, `top3` and `top5` in percent, and what they belong to: `step`,
        `model`, `dataset`, `split` and the number of `images`. Of a run of several seeds they
        are means, and `per_seed` has those of each; each seed has its own "best" step.

    Raises:
        UserError: if there is no such run, checkpoint or split.
    """
    run = restore_run(workdir, step, dataset, data_dir, image_dir, skip_bad)
    run.check_split(split)
    results = run.program.evaluate(run.state, split)
    seeds = run.program.seeds
    each = {}
    if len(seeds) > 1:
        each["per_seed"] = [
            {"seed": seed, "step": step, **of_seed(results, place)}
            for place, (seed, step) in enumerate(zip(seeds, run.steps, strict=True))
        ]
    return {
        "model": run.config.model.name,
        "dataset": run.dataset.name,
        "split": split,
        "images": run.program.sizes[split],
        "step": one_or_all(run.steps),
        **mean_over_seeds(results),
        **each,
    }


@dataclasses.dataclass(frozen=True)
class PublishedNetwork:
    """A network with published weights, for images of some classes.

    Attributes:
        info: what is known of the network.
        known: what is known of the weights, or None.
        weights: where they are from.
        model, variables: the network.
        places: at which place among the weights' classes each class of the images is.
    """

    info: ModelInfo
    known: PublishedWeights | None
    weights: str | pathlib.Path
    model: nn.Module
    variables: dict[str, Any]
    places: np.ndarray

    def class_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Returns a name for each class of the weights, those of the images in their places."""
        result = [str(i) for i in range(self.model.num_classes)]
        for name, place in zip(names, self.places, strict=True):
            result[place] = name
        return tuple(result)


def load_published(
    name: str, weights: str | pathlib.Path | None, class_names: tuple[str, ...]
) -> PublishedNetwork:
    """Returns a network with published weights; for arguments, see `evaluate_pretrained`.

    Args:
        class_names: of the images.
    """
    info = model_info(name)
    known = find_weights(name, weights)
    if weights is None:
        if known is None:
            raise UserError(
                f'the catalogue has no weights of "{name}"; give --weights=FILE, or choose '
                "one of the models that python -m se_flax.pretrained lists"
            )
        weights = known.source
    # An auxiliary classifier has no part in what a trained network says.
    has_auxiliary = any(field.name == "auxiliary" for field in dataclasses.fields(info.module))
    fields = {"auxiliary": False} if has_auxiliary else {}
    variables = load_pretrained(name, weights, **fields)
    num_classes = len(variables["params"]["classifier"]["bias"])
    places = _places_of_classes(class_names, num_classes)
    model = create_model(name, num_classes, **fields)
    return PublishedNetwork(info, known, weights, model, variables, places)


def evaluate_pretrained(
    name: str,
    weights: str | pathlib.Path | None,
    source: ImageSource,
    batch_size: int = 64,
    crop: CenterCrop | None = None,
) -> dict[str, Any]:
    """Returns loss and top-1/3/5 of published weights over all images of a source.

    Images are resized, cropped and normalised as is published for the weights, if the catalogue
    has them, and otherwise as for the network.

    Args:
        name: of the network.
        weights: a `source` for `load_pretrained`; by default, the catalogue's first.
        source: the images. Its classes are those of the weights, in their order; for weights of
            ImageNet's 1000 classes they may be any of these, named by synset (n01440764).
        batch_size: number of images on all devices together, rounded up to divide by them.
        crop: how to crop instead.

    Returns:
        `loss` in nats, `top1`, `top3` and `top5` in percent, the number of `images`, how they
        were cropped (`input_size`, `crop`, `interpolation`), and `published`, a list of what was
        published for these weights and for this network, not always of these weights:
        `top1_error`, `top5_error` and their `source`, on ImageNet's validation images.

    Raises:
        UserError: if the weights cannot be read or give no numbers, or the classes are not theirs.
    """
    loaded = load_published(name, weights, source.class_names)
    info, known, weights = loaded.info, loaded.known, loaded.weights
    crop = crop or published_crop(name, weights)
    evaluate = pmap_eval_images(make_eval_step(loaded.model), Preprocessing(info.mean, info.std))
    batch_size = -(-batch_size // jax.device_count()) * jax.device_count()
    renamed = Renamed(source, loaded.places, loaded.class_names(source.class_names))
    batches = eval_batches(renamed, crop, batch_size)
    batches = tqdm(batches, name, -(-len(source) // batch_size), leave=False, disable=None)
    means = evaluate_batches(evaluate, replicate(loaded.variables), batches)
    if not np.isfinite(means["loss"]):
        raise UserError(f"{weights} make the network's loss {means['loss']}")
    results = [result for result in info.published if result.dataset == "imagenet2012"]
    if known:
        by = f"{known.source} by {FIGURES}"
        results.insert(0, Published("imagenet2012", known.top1_error, known.top5_error, by))
    return {
        "model": name,
        "weights": str(weights),
        "images": len(source),
        "input_size": crop.size,
        "crop": crop.crop,
        "interpolation": crop.interpolation,
        **means,
        "published": [
            {
                "top1_error": result.top1_error,
                "top5_error": result.top5_error,
                "source": result.source,
            }
            for result in results
        ],
    }


def published_crop(name: str, weights: str | pathlib.Path | None) -> CenterCrop:
    """Returns how the images are cropped that weights, or else a network, are evaluated on."""
    by = find_weights(name, weights) or model_info(name)
    return CenterCrop(by.input_size, by.crop, by.interpolation)


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A source whose classes stand at other places."""

    source: ImageSource
    places: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = self.source[i]
        return {**record, "label": self.places[record["label"]]}

    def describe(self, i: int) -> str:
        """Returns what to call an image in a message."""
        return self.source.describe(i)


def _places_of_classes(names: tuple[str, ...], num_classes: int) -> np.ndarray:
    """Returns at which place each class of the images is among those of the weights."""
    if len(names) == num_classes:
        return np.arange(num_classes)
    if num_classes == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in names):
        import tensorflow_datasets as tfds

        synsets = tfds.builder("imagenet2012").info.features["label"].names
        if set(names) <= set(synsets):
            return np.array([synsets.index(name) for name in names])
    raise UserError(
        f"the images are of {len(names)} classes ({', '.join(names[:3])}, ...), the weights for "
        f"{num_classes}; they must be as many, or be named by ImageNet's synsets (n01440764)"
    )


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string(
        "step", None, 'Which checkpoint of a run: "best" (the default), "latest" or a step.'
    )
    flags.DEFINE_string(
        "split",
        None,
        'Of a run "test" (the default), "train" or, if held out, "validation"; otherwise of '
        '--dataset, by default "validation".',
    )
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps data, if not as in the run.")
    flags.DEFINE_list(
        "model",
        None,
        "In place of --workdir: networks whose published weights to evaluate, names or patterns.",
    )
    flags.DEFINE_string(
        "weights", None, "Hub id or file; by default the first that the catalogue has."
    )
    flags.DEFINE_string("dataset", None, "TFDS data set to evaluate published weights on.")
    flags.DEFINE_string("image_dir", None, "A folder of class folders to evaluate on.")
    flags.DEFINE_bool("skip_bad", False, "Leave out images of --image_dir that cannot be read.")
    flags.DEFINE_integer("batch_size", None, "Images at a time, of published weights.", 1)
    flags.DEFINE_integer("input_size", None, "Of published weights: size of the crop.", 1)
    flags.DEFINE_float("crop", None, "The part of the short side that the crop has.", 0.01, 1.0)
    flags.DEFINE_enum("interpolation", None, ["bilinear", "bicubic"], "How images are resized.")


def main(argv: list[str]) -> None:
    """Prints the results as a line and as JSON."""
    options = flags.FLAGS
    if options.model:
        _refuse("--model", _OF_RUNS)
        _main_pretrained()
    elif options.workdir:
        _refuse("--workdir", _OF_WEIGHTS)
        if options.image_dir:
            _refuse("--image_dir", ("split", "data_dir"))
        results = evaluate_workdir(
            options.workdir,
            options.step or "best",
            options.split or "test",
            data_dir=options.data_dir,
            image_dir=options.image_dir,
            skip_bad=options.skip_bad,
        )
        title = f"{results['model']} (step {results['step']}) on {results['dataset']}"
        print(format_results(f"{title} {results['split']}, {results['images']:,} images", results))
        print(json.dumps(results))
    else:
        raise UserError(
            "--workdir=DIR is missing, for example --workdir=runs/quickstart; or, for published "
            "weights, --model=NAME"
        )


_OF_RUNS = ("workdir", "step")
_OF_WEIGHTS = ("weights", "dataset", "batch_size", "input_size", "crop", "interpolation")


def _refuse(given: str, names: tuple[str, ...]) -> None:
    for name in names:
        if flags.FLAGS[name].value is not None:
            raise UserError(f"--{name} does not go with {given}")


def _main_pretrained() -> None:
    options = flags.FLAGS
    if (options.dataset is None) == (options.image_dir is None):
        raise UserError("with --model, give either --dataset=NAME or --image_dir=DIR")
    names = []
    for pattern in options.model:
        if any(sign in pattern for sign in "*?["):
            matching = [name for name in list_models(pattern) if find_weights(name)]
            if not matching:
                raise UserError(f'no weights are known of a model whose name matches "{pattern}"')
            names += matching
        elif pattern:
            names.append(model_info(pattern).name)
    if options.weights and len(names) > 1:
        raise UserError(f"--weights are of one model, but --model gives {len(names)}")
    if options.image_dir and options.split:
        raise UserError("--split is of --dataset, not of --image_dir")
    if options.image_dir:
        shown = options.image_dir
        source = ImageFolder.of(options.image_dir).checked(options.skip_bad)
    else:
        split = options.split or "validation"
        shown = f"{options.dataset} {split}"
        source = TfdsImages(options.dataset, split, options.data_dir)
    for name in names:
        crop = published_crop(name, options.weights)
        crop = CenterCrop(
            options.input_size or crop.size,
            options.crop or crop.crop,
            options.interpolation or crop.interpolation,
        )
        batch_size = options.batch_size or 64
        results = evaluate_pretrained(name, options.weights, source, batch_size, crop)
        title = (
            f"{name} ({results['weights']}) on {shown}, {results['images']:,} images, "
            f"{crop.size} pixels, crop {crop.crop}, {crop.interpolation}"
        )
        print(format_results(title, results))
        print(_errors(100 - results["top1"], 100 - results["top5"], "here"))
        print("  published for this network:")
        for figures in results["published"]:
            print(_errors(**figures))
        print(json.dumps({**results, "evaluated_on": shown}), flush=True)


def _errors(top1_error: float, top5_error: float | None, source: str) -> str:
    top5 = "      " if top5_error is None else f"{top5_error:5.2f}%"
    return f"  top-1 error {top1_error:5.2f}%, top-5 error {top5}: {source}"


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
