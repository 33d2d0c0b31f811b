"""Evaluates a run's checkpoint, or published weights.

python -m se_flax.evaluate --workdir=runs/quickstart
python -m se_flax.evaluate --model=se_resnet50_caffe --image_dir=imagenet/val
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import app, flags
from tqdm import tqdm

from se_flax import seeds
from se_flax.cli.command import parse_flags, run_command
from se_flax.data.dataset import ImageDataset
from se_flax.data.folders import ImageFolder
from se_flax.data.images import CenterCrop
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.sources import TfdsImages
from se_flax.data.streaming import ImageSource, StreamedEvalFeed, eval_batch
from se_flax.errors import UserError
from se_flax.metrics import total
from se_flax.models import list_models, model_info
from se_flax.models.registry import Published
from se_flax.parallel import pmap_eval, replicate
from se_flax.pretrained.catalogue import FIGURES, find_weights
from se_flax.published import Renamed, load_published, published_crop
from se_flax.restored import restore_run
from se_flax.runtime.progress import format_results
from se_flax.step import make_eval_step


def evaluate_workdir(
    workdir: str | pathlib.Path,
    step: str | int = "best",
    split: str = "test",
    dataset: ImageDataset | None = None,
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
    each = [
        {"seed": seed, "step": step, **result}
        for seed, step, result in zip(run.seeds, run.steps, results, strict=True)
    ]
    return {
        "model": run.program.config.model.name,
        "dataset": run.program.dataset.name,
        "split": split,
        "images": run.program.sizes[split],
        "step": seeds.one_or_all(run.steps),
        **seeds.mean(results),
        **({"per_seed": each} if len(each) > 1 else {}),
    }


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
        were cropped (`input_size`, `crop_pct`, `interpolation`), and `published`, a list of what
        was published for these weights and for this network, not always of these weights:
        `top1_error`, `top5_error` and their `source`, on ImageNet's validation images.

    Raises:
        UserError: if the weights cannot be read or give no numbers, or the classes are not theirs.
    """
    loaded = load_published(name, weights, source.class_names)
    info, known, weights = loaded.info, loaded.known, loaded.weights
    crop = crop or published_crop(name, weights)
    preprocessing, eval_step = Preprocessing(info.mean, info.std), make_eval_step(loaded.model)
    evaluate = pmap_eval(
        lambda variables, shared, own: eval_step(variables, eval_batch(preprocessing, shared, own))
    )
    renamed = Renamed(source, loaded.places, loaded.class_names(source.class_names))
    feed = StreamedEvalFeed(renamed, crop, batch_size)
    variables = replicate(loaded.variables)
    batches = tqdm(feed, name, leave=False, disable=None)
    means = total([evaluate(variables, *inputs) for inputs in batches]).means()
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
        "crop_pct": crop.crop_pct,
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
    flags.DEFINE_float(
        "crop_pct", None, "Of published weights: share of the short side that is seen.", 0.01, 1.0
    )
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
        title = f"{title} {results['split']}, {results['images']:,} images"
        print(format_results(title, results.get("per_seed", [results])))
        print(json.dumps(results))
    else:
        raise UserError(
            "--workdir=DIR is missing, for example --workdir=runs/quickstart; or, for published "
            "weights, --model=NAME"
        )


_OF_RUNS = ("workdir", "step")
_OF_WEIGHTS = ("weights", "dataset", "batch_size", "input_size", "crop_pct", "interpolation")


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
            options.crop_pct or crop.crop_pct,
            options.interpolation or crop.interpolation,
        )
        batch_size = options.batch_size or 64
        results = evaluate_pretrained(name, options.weights, source, batch_size, crop)
        title = (
            f"{name} ({results['weights']}) on {shown}, {results['images']:,} images, "
            f"{crop.size} pixels, crop {crop.crop_pct}, {crop.interpolation}"
        )
        print(format_results(title, [results]))
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
