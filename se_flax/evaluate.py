"""Evaluates a run's checkpoint, or published weights.

python -m se_flax.evaluate --workdir=runs/quickstart
python -m se_flax.evaluate --model=se_resnet50_caffe --image_dir=imagenet/val
"""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags
from tqdm import tqdm

from se_flax import seeds
from se_flax.cli.command import parse_flags, run_command
from se_flax.data.damage import Damage
from se_flax.data.dataset import ImageDataset
from se_flax.data.folders import ImageFolder
from se_flax.data.image_source import ImageSource
from se_flax.data.images import CenterCrop
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.sources import TfdsImages, evaluation_split
from se_flax.data.streaming import StreamedEvalFeed, eval_batch
from se_flax.detection.average_precision import write_results
from se_flax.detection.create import is_detector
from se_flax.detection.evaluate import evaluate_weights
from se_flax.detection.task import Detection
from se_flax.errors import UserError
from se_flax.metrics import total
from se_flax.models import Preparation, list_models, model_info
from se_flax.parallel import pmap_eval, replicate
from se_flax.pretrained.catalogue import find_weights
from se_flax.published import (
    Renamed,
    load_published,
    preparation_for,
    published_results,
    source_of_weights,
    warn_of_other_dataset,
)
from se_flax.restored import RestoredRun, restore_run
from se_flax.runtime.progress import counted, format_results, format_steps
from se_flax.runtime.status import busy
from se_flax.runtime.terminal import fitted
from se_flax.step import make_eval_step


def evaluate_workdir(
    workdir: str | os.PathLike[str],
    step: str | int = "best",
    split: str = "test",
    dataset: ImageDataset | None = None,
    data_dir: str | None = None,
    image_dir: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
    labels: str | os.PathLike[str] | None = None,
    detections: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Evaluates a run's checkpoint; every image of the split counts exactly once.

    Images that turn out damaged when they are decoded are named, and left out; for a detector, they
    are an error.

    Args:
        workdir: folder of the run, on a disk or in a bucket ("gs://BUCKET/FOLDER").
        step: "best", "latest" or the step of a checkpoint.
        split: "test", "train" (not augmented) or, if the run held images out, "validation".
        dataset: data set to evaluate on, instead of the run's.
        data_dir: folder of TFDS data sets, if not the run's.
        image_dir: folder with one folder per class to evaluate on instead. The class folders have
            the names of the run's classes, and the images are resized, cropped and normalised like
            the run's, whose own data set is not needed. For a detector, a folder with annotations
            in COCO's format, of which the validation images are used (see
            `se_flax.detection.coco`).
        skip_bad: whether to skip unreadable images in `image_dir` instead of raising.
        labels: CSV file with the classes of the images in `image_dir` (see
            `se_flax.data.label_file`), instead of a folder per class.
        detections: file to which the detections of a detector are written, as JSON in COCO's format
            of results.

    Returns:
        `loss` in nats; `top1`, `top3` and `top5` accuracy in percent, or for images of several
        classes `mAP` and `label_accuracy` (see `se_flax.label_metrics`), or for a detector `AP`,
        `AP50`, `AP75`, `AP_small`, `AP_medium` and `AP_large` in percent; `step`, `model`,
        `dataset`, `split`, the number of `images` and `num_classes`. For a run of several seeds the
        results are means, and `per_seed` has the results of each seed. Each seed has its own "best"
        step.

    Raises:
        UserError: if the run, checkpoint or split does not exist, or images cannot be read.
    """
    run = restore_run(workdir, step, dataset, data_dir, image_dir, skip_bad, labels)
    run.check_split(split)
    task = run.program.task
    if detections is not None:
        _check_detects(run, detections)
    totals = run.program.evaluated(run.state, split)
    results = run.program.results(totals, split)
    if detections is not None and isinstance(task, Detection):
        write_results(task.detections(totals[0], split), detections)
    each = [
        {"seed": seed, "step": step, **result}
        for seed, step, result in zip(run.seeds, run.steps, results, strict=True)
    ]
    return {
        "model": run.program.config.model.name,
        "dataset": run.program.dataset.name,
        "split": split,
        "images": run.program.sizes[split] - len(getattr(run.program.dataset, "damage", ())),
        "num_classes": len(run.program.dataset.class_names),
        "step": seeds.one_or_all(run.steps),
        **seeds.mean(results),
        **({"per_seed": each} if len(each) > 1 else {}),
    }


def _check_detects(run: RestoredRun, detections: str | os.PathLike[str]) -> None:
    """Raises `UserError` if a run has no detections to write."""
    if not is_detector(run.program.config.model.name):
        raise UserError(
            f"--detections={detections} is for detectors, but the run has a "
            f"{run.program.config.model.name}; leave it out"
        )
    if len(run.seeds) > 1:
        raise UserError(
            f"--detections={detections} needs a run with one seed, but this one has "
            f"{len(run.seeds)}; leave it out"
        )


def evaluate_pretrained(
    name: str,
    weights: str | pathlib.Path | None,
    source: ImageSource,
    batch_size: int = 64,
    preparation: Preparation | None = None,
) -> dict[str, Any]:
    """Evaluates published weights on all images of a source.

    Images are resized, cropped and normalised as is stated with the weights, and otherwise as for
    the network (see `se_flax.pretrained.preparation`). Networks for CIFAR take the mean of CIFAR-10
    then; for other data sets, pass `preparation=preparation_for(name, weights, "cifar100")` (from
    `se_flax.published`).

    Args:
        name: name of the network.
        weights: a `source` for `load_pretrained`; by default the first in the catalogue.
        source: the images. Their classes must be those of the weights, in the same order. For
            weights with ImageNet's 1000 classes, they can be any subset, named by synset (for
            example n01440764).
        batch_size: total batch size, over all devices; rounded up to a multiple of their number.
        preparation: how to prepare the images instead.

    Returns:
        `loss` in nats; `top1`, `top3` and `top5` accuracy in percent; the number of `images`;
        their preparation (`input_size`, `crop_pct`, `interpolation`, `mean`, `std`); and
        `published`, a list of published results on the data set of the weights (ImageNet, if they
        are not in the catalogue), each with `top1_error`, `top5_error` and `source`. The list has
        results of these weights and of this network, which may have been obtained with other
        weights.

    Raises:
        UserError: if the weights cannot be read or give a loss that is not finite, or their
            classes do not match the images'.
    """
    loaded = load_published(name, weights, source.class_names)
    weights = loaded.weights
    prepared = preparation or preparation_for(name, weights)
    preprocessing = Preprocessing(prepared.mean, prepared.std)
    eval_step = make_eval_step(loaded.model)
    evaluate = pmap_eval(
        lambda variables, shared, own: eval_step(variables, eval_batch(preprocessing, shared, own))
    )
    renamed = Renamed(source, loaded.places, loaded.class_names(source.class_names))
    damage = Damage()
    feed = StreamedEvalFeed(renamed, CenterCrop.of(prepared), batch_size, damage=damage)
    variables = replicate(loaded.variables)
    batches = tqdm(feed, name, leave=False, disable=None)
    means = total([evaluate(variables, *inputs) for inputs in batches]).means()
    if not np.isfinite(means["loss"]):
        raise UserError(
            f"the loss with {weights} is {means['loss']}, not finite; use other weights"
        )
    return {
        "model": name,
        "weights": str(weights),
        "images": len(source) - len(damage),
        "input_size": prepared.size,
        "crop_pct": prepared.crop_pct,
        "interpolation": prepared.interpolation,
        "mean": list(prepared.mean),
        "std": list(prepared.std),
        **means,
        "published": published_results(loaded),
    }


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string(
        "step", None, 'Checkpoint of a run: "best" (the default), "latest" or a step.'
    )
    flags.DEFINE_string(
        "split",
        None,
        'Split of a run\'s data set: "test" (the default), "train" or, if held out, "validation"; '
        'or split of --dataset, by default "validation", or "test" if it has none.',
    )
    flags.DEFINE_string("data_dir", None, "Folder of TFDS data sets, if not the run's.")
    flags.DEFINE_list(
        "model",
        None,
        "Instead of --workdir: names or patterns of networks whose published weights to evaluate.",
    )
    flags.DEFINE_string(
        "weights",
        None,
        "With --model: hub id or file; by default the first in the catalogue. Weights that are "
        "stated to be for another network are refused. A bare file states nothing: make sure that "
        "it is for --model, and not for a network with the same tensors that computes differently.",
    )
    flags.DEFINE_string("dataset", None, "With --model: TFDS data set to evaluate on.")
    flags.DEFINE_string(
        "image_dir",
        None,
        "Folder with one folder per class to evaluate on; "
        "for a detector, with annotations in COCO's format.",
    )
    flags.DEFINE_string(
        "labels",
        None,
        "With --workdir and --image_dir: CSV file with the classes of the images, instead of a "
        "folder per class.",
    )
    flags.DEFINE_string(
        "detections",
        None,
        "With a detector: JSON file to write, with the detections in COCO's format of results.",
    )
    flags.DEFINE_bool("skip_bad", False, "Skip images in --image_dir that cannot be read.")
    flags.DEFINE_integer("batch_size", None, "With --model: batch size, by default 64.", 1)
    flags.DEFINE_integer("input_size", None, "With --model: height and width of the crop.", 1)
    flags.DEFINE_float(
        "crop_pct",
        None,
        "With --model: fraction of the short side that the crop keeps.",
        0.01,
        1.0,
    )
    flags.DEFINE_enum(
        "interpolation",
        None,
        ["bilinear", "bicubic"],
        "With --model: interpolation used to resize images.",
    )
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        flags.DEFINE_list(
            name,
            None,
            f"With --model: {what} of red, green and blue on a scale of 0 to 1, by which images "
            "are normalised, for example 0.5,0.5,0.5. Without these options, images are prepared "
            "as is stated with the weights, or else as for the network.",
        )


def main(argv: list[str]) -> None:
    """Prints the results as one line of text and one of JSON."""
    options = flags.FLAGS
    if options.model and any(map(is_detector, options.model)):
        _main_detector()
    elif options.model:
        _refuse("--model", _OF_RUNS)
        _main_pretrained()
    elif options.workdir:
        _refuse("--workdir", _OF_WEIGHTS)
        if options.image_dir:
            _refuse("--image_dir", ("split", "data_dir"))
        elif options.labels:
            raise UserError("--labels is for the images of --image_dir=DIR; give both, or neither")
        with busy("evaluating"):
            results = evaluate_workdir(
                options.workdir,
                options.step or "best",
                options.split or "test",
                data_dir=options.data_dir,
                image_dir=options.image_dir,
                skip_bad=options.skip_bad,
                labels=options.labels,
                detections=options.detections,
            )
        images = results["dataset"]
        if not options.image_dir:
            images = f"{images} {results['split']}"
        title = f"{results['model']} ({format_steps(results['step'])}) on {images}"
        title = f"{title}, {counted(results['images'], 'image')}"
        each = results.get("per_seed", [results])
        print(fitted(format_results(title, each, results["num_classes"]), sys.stdout))
        print(json.dumps(results))
    else:
        raise UserError(
            "--workdir=DIR is missing, for example --workdir=runs/quickstart; or, for published "
            "weights, --model=NAME"
        )


_OF_RUNS = ("workdir", "step", "labels", "detections")
_OF_PREPARATION = ("input_size", "crop_pct", "interpolation", "mean", "std")
_OF_WEIGHTS = ("weights", "dataset", "batch_size", *_OF_PREPARATION)


def _refuse(given: str, names: tuple[str, ...]) -> None:
    for name in names:
        if flags.FLAGS[name].value is not None:
            raise UserError(f"--{name} cannot be combined with {given}; remove one of them")


def _main_detector() -> None:
    options = flags.FLAGS
    name, *others = options.model
    for option in ("skip_bad", "data_dir"):
        if options[option].value:
            raise UserError(f"--{option} has no effect on a detector; leave it out")
    _refuse(f"--model={name}", ("workdir", "step", "labels", "dataset", "split", *_OF_PREPARATION))
    if others or not options.weights or not options.image_dir:
        raise UserError(
            f"to evaluate a detector, give its weights and images with annotations in COCO's "
            f"format: --model={name} --weights=FILE --image_dir=DIR"
        )
    results = evaluate_weights(
        name, options.weights, options.image_dir, options.batch_size or 2, options.detections
    )
    title = f"{name} ({options.weights}) on {options.image_dir}"
    print(format_results(f"{title}, {counted(results['images'], 'image')}", [results]))
    print(json.dumps({"model": name, "weights": options.weights, **results}))


def _main_pretrained() -> None:
    options = flags.FLAGS
    if (options.dataset is None) == (options.image_dir is None):
        raise UserError("with --model, give either --dataset=NAME or --image_dir=DIR")
    names = []
    for pattern in options.model:
        if any(sign in pattern for sign in "*?["):
            matching = [name for name in list_models(pattern) if find_weights(name)]
            if not matching:
                raise UserError(
                    f'the catalogue has no weights for a model that matches "{pattern}", or only '
                    "files to download first; python -m se_flax.pretrained lists all"
                )
            names += matching
        elif pattern:
            names.append(model_info(pattern).name)
    if options.weights and len(names) > 1:
        raise UserError(
            f"--weights belong to one model, but --model names {len(names)}; give one model"
        )
    if options.image_dir and options.split:
        raise UserError(
            "--split requires --dataset and cannot be combined with --image_dir; remove one of them"
        )
    for name in names:
        source_of_weights(name, options.weights)  # before images are downloaded
        warn_of_other_dataset(name, options.weights, options.dataset)
    given = _given_preparation()
    if options.image_dir:
        shown = options.image_dir
        with busy("listing the images"):
            source = ImageFolder.of(options.image_dir).checked(options.skip_bad)
    else:
        split = options.split or evaluation_split(options.dataset, options.data_dir)
        shown = f"{options.dataset} {split}"
        source = TfdsImages(options.dataset, split, options.data_dir)
    for name in names:
        prepared = _preparation(name, given)
        batch_size = options.batch_size or 64
        results = evaluate_pretrained(name, options.weights, source, batch_size, prepared)
        title = (
            f"{name} ({results['weights']}) on {shown}, {results['images']:,} images, "
            f"{prepared.size} pixels, crop {prepared.crop_pct}, {prepared.interpolation}, "
            f"mean {_spaced(prepared.mean)}, std {_spaced(prepared.std)}"
        )
        print(format_results(title, [results]))
        print(_errors(100 - results["top1"], 100 - results["top5"], "here"))
        if results["published"]:
            print("  published for this network:")
        for figures in results["published"]:
            print(_errors(**figures))
        print(json.dumps({**results, "evaluated_on": shown}), flush=True)


def _given_preparation() -> dict[str, Any]:
    """Returns the fields of a `Preparation` that the options give."""
    options = flags.FLAGS
    given = {
        "size": options.input_size,
        "crop_pct": options.crop_pct,
        "interpolation": options.interpolation,
        "mean": _three_numbers("mean", 0.0),
        "std": _three_numbers("std", 0.001),
    }
    return {field: value for field, value in given.items() if value is not None}


def _preparation(name: str, given: dict[str, Any]) -> Preparation:
    """Returns how images are prepared by the options, and where there are none, by the weights."""
    options = flags.FLAGS
    if len(given) == len(_OF_PREPARATION):  # then nothing needs to be read
        return Preparation(**given)
    return dataclasses.replace(preparation_for(name, options.weights, options.dataset), **given)


def _three_numbers(option: str, least: float) -> tuple[float, ...] | None:
    given = flags.FLAGS[option].value
    if given is None:
        return None
    try:
        values = tuple(float(value) for value in given)
    except ValueError:
        values = ()
    if len(values) != 3 or not all(least <= value <= 1 for value in values):
        raise UserError(
            f"--{option}={','.join(given)} must be three numbers from {least:g} to 1, for red, "
            "green and blue, for example 0.5,0.5,0.5"
        )
    return values


def _spaced(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _errors(top1_error: float, top5_error: float | None, source: str) -> str:
    top5 = "      " if top5_error is None else f"{top5_error:5.2f}%"
    return f"  top-1 error {top1_error:5.2f}%, top-5 error {top5}: {source}"


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
