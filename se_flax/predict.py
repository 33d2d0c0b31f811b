"""Says what is on photographs: the likeliest classes of each, or the objects in it.

python -m se_flax.predict --workdir=runs/quickstart photo.jpg photographs/
python -m se_flax.predict --model=se_resnet50_caffe --output=figure.png --heatmap photographs/

A folder is searched with all folders below it. A photograph is turned upright, put on white where
it is transparent, resized and cropped as in the evaluations of the run or the weights, and for a
network on grey levels turned grey. So a network on small images sees a photograph in their size: 32
x 32 pixels for CIFAR, 8 x 8 for the digits. For a detector, a photograph is resized as in the
evaluations of the run, and not cropped.
"""

import collections
import dataclasses
import functools
import io
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from se_flax import detection
from se_flax.analysis.heatmaps import check_maps, class_activation_maps, overlay
from se_flax.analysis.photographs import Panel, draw_photographs, percent
from se_flax.analysis.subject import png_path
from se_flax.cli.command import parse_flags, run_command
from se_flax.cli.trained import check_trained_flags, define_trained_flags
from se_flax.data.grid import png_of
from se_flax.data.images import CenterCrop
from se_flax.data.photographs import find_photographs, read_photograph
from se_flax.data.preprocessing import Preprocessing
from se_flax.detection.create import is_detector
from se_flax.detection.loaded import LoadedDetector
from se_flax.detection.predict import draw_objects, line_of, objects_in
from se_flax.errors import RunError, UserError
from se_flax.loaded import LoadedRun, load_run, load_weights
from se_flax.pretrained.words import in_words
from se_flax.runtime.paths import Path, to_path
from se_flax.runtime.progress import counted
from se_flax.runtime.status import busy
from se_flax.runtime.terminal import fitted, say_error
from se_flax.workdir import read_config

MOST_DRAWN = 24  # photographs in a figure
_MOST_BARS = 10  # classes of each photograph in a figure
_DRAWN_SIDE = 400  # pixels; larger photographs are shrunk before they are drawn
_READERS = min(8, 1 + (os.cpu_count() or 1))  # threads; each holds a photograph in full size

Skip = Callable[[Path, str], object]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The likeliest classes of a photograph, the likeliest first.

    Of a network for images of several classes, these are the classes whose probability is above a
    threshold, which may be none.

    Attributes:
        path: of the photograph.
        classes: their names; ImageNet's classes are named in words.
        probabilities: the softmax of their logits, over all of the network's classes; for a network
            trained with `config.loss="bce"`, the sigmoid of each logit.
        indices: their places in the order of the logits, from 0.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]


def predict(
    loaded: LoadedRun,
    places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    top: int = 5,
    batch_size: int = 32,
    skip: Skip | None = None,
    threshold: float = 0.5,
) -> Iterator[Prediction]:
    """Yields the likeliest classes of photographs.

        for found in predict(load_run("runs/quickstart"), "photographs"):
            print(found.path, found.classes[0], found.probabilities[0])

    Photographs are read as `se_flax.data.photographs.read_photograph` describes, and resized,
    cropped and normalised as in the evaluations of the run or the weights. However many they are,
    only a few batches are in memory.

    Args:
        loaded: the network, of `load_run`, or of `se_flax.loaded.load_weights`.
        places: files and folders, or one of them; see
            `se_flax.data.photographs.find_photographs`.
        top: largest number of classes.
        batch_size: number of photographs that are computed at once.
        skip: called with the path of each photograph or folder that cannot be read, and the reason.
        threshold: of a network for images of several classes, the probability above which a class
            is taken.

    Raises:
        UserError: if there is no such file or folder, or no photograph; without `skip`, also if one
            cannot be read; or if the network's output is not finite.
    """
    places = [places] if isinstance(places, str | os.PathLike) else places
    paths, useless = find_photographs(places)
    skip = _refuse if skip is None else skip
    for place, fault in useless:
        skip(place, fault)
    return _predictions(loaded, paths, top, min(batch_size, len(paths)), skip, threshold)


def _refuse(path: Path, fault: str) -> None:
    raise UserError(f"cannot read {path}: {fault}")


def _predictions(
    loaded: LoadedRun,
    paths: Sequence[Path],
    top: int,
    batch_size: int,
    skip: Skip,
    threshold: float,
) -> Iterator[Prediction]:
    own, names = loaded.preparation, in_words(loaded.classes)
    preprocessing = Preprocessing(own.mean, own.std)

    @jax.jit
    def compute(variables, images):
        images = preprocessing.normalize(images)
        return loaded.probabilities(loaded.network.apply(variables, images, train=False))

    variables = jax.device_put(loaded.variables)
    batch = np.zeros((batch_size, own.size, own.size, len(own.mean)), np.uint8)
    cropped = _cropped(paths, CenterCrop.of(own, len(own.mean)), 2 * batch_size, skip)
    while taken := list(itertools.islice(cropped, batch_size)):
        batch[: len(taken)] = [crop for _, crop in taken]
        shares = np.asarray(compute(variables, batch.copy()))
        for (path, _), share in zip(taken, shares, strict=False):
            if not np.isfinite(share).all():
                raise UserError(
                    f"the network's output for {path} is not finite; use another checkpoint or "
                    "other weights"
                )
            best = np.argsort(-share, kind="stable")[:top].tolist()
            if loaded.multi_label:
                best = [k for k in best if share[k] > threshold]
            classes = tuple(names[k] for k in best)
            yield Prediction(path, classes, tuple(share[best].tolist()), tuple(best))


def _cropped(
    paths: Iterable[Path], crop: CenterCrop, ahead: int, skip: Skip
) -> Iterator[tuple[Path, np.ndarray]]:
    """Yields the crop of each photograph that can be read, in order; threads read some ahead."""

    def read(path: Path) -> np.ndarray | str:
        try:
            return crop(read_photograph(path))
        except UserError as error:
            return str(error)

    def results() -> Iterator[tuple[Path, Future[np.ndarray | str]]]:
        for path in paths:
            waiting.append((path, pool.submit(read, path)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    waiting: collections.deque[tuple[Path, Future[np.ndarray | str]]] = collections.deque()
    pool = ThreadPoolExecutor(_READERS)
    try:
        for path, future in results():
            result = future.result()
            if isinstance(result, str):
                skip(path, result)
            else:
                yield path, result
    finally:
        pool.shutdown(cancel_futures=True)


def draw(loaded: LoadedRun, predictions: Sequence[Prediction], heatmap: bool = False) -> Any:
    """Returns a figure of photographs with their classes (see `analysis.photographs`).

    Args:
        loaded: the network.
        predictions: what it says, of at least one photograph.
        heatmap: whether to draw where the likeliest class is: its class activation map (see
            `se_flax.analysis.heatmaps.class_activation_maps`) over the part that the network sees.

    Raises:
        UserError: if a photograph cannot be read any more, or the network has no such maps.
    """
    photographs = [read_photograph(found.path) for found in predictions]
    maps = [None] * len(predictions)
    if heatmap:
        own = loaded.preparation
        crops = np.stack([CenterCrop.of(own, len(own.mean))(each) for each in photographs])
        images = Preprocessing(own.mean, own.std).normalize(jnp.asarray(crops))
        classes = np.array([found.indices[0] if found.indices else 0 for found in predictions])
        found, _ = class_activation_maps(loaded.network, loaded.variables, images, classes)
        maps = [
            overlay(crop, each) if of_one.indices else None
            for crop, each, of_one in zip(crops, found, predictions, strict=True)
        ]
    panels = [
        Panel(
            _shown(found.path.name),
            _shrunk(photograph),
            found.classes[:_MOST_BARS],
            found.probabilities[:_MOST_BARS],
            map,
        )
        for found, photograph, map in zip(predictions, photographs, maps, strict=True)
    ]
    return draw_photographs(panels, loaded.preparation)


def _shrunk(photograph: np.ndarray) -> np.ndarray:
    image = Image.fromarray(photograph)
    image.thumbnail((_DRAWN_SIDE, _DRAWN_SIDE))
    return np.asarray(image)


def _shown(path: str) -> str:
    """Returns a path that can be printed, also if it is not in the system's encoding."""
    return os.fsencode(path).decode(errors="replace")


def define_flags() -> None:
    """Declares the options of this command, which may come after the photographs."""
    flags.FLAGS.set_gnu_getopt(True)
    define_trained_flags()
    flags.DEFINE_string(
        "class_names",
        None,
        "With --model: text file with the name of a class in each line, in the order of the "
        "network's outputs. It is needed only for weights that are neither in the catalogue nor "
        "for ImageNet, whose classes are otherwise numbered.",
    )
    flags.DEFINE_integer(
        "top",
        5,
        "Number of classes for each photograph; with a network for images of several classes, at "
        "most this many.",
        1,
    )
    flags.DEFINE_float(
        "threshold",
        0.5,
        "With a detector, lowest score of an object; with a network for images of several classes, "
        "probability above which a class is shown.",
        0.0,
        1.0,
    )
    flags.DEFINE_bool("json", False, "Print one JSON object per photograph, in a line of its own.")
    flags.DEFINE_string(
        "output",
        None,
        f"PNG file to write, with the first {MOST_DRAWN} photographs and bars of their classes, or "
        "the objects in them.",
    )
    flags.DEFINE_bool("heatmap", False, "With --output: also draw where the likeliest class is.")
    flags.DEFINE_integer("batch_size", 32, "Number of photographs that are computed at once.", 1)


def main(argv: list[str]) -> None:
    """Prints the likeliest classes of each photograph, and draws them."""
    options = flags.FLAGS
    _check_options(argv[1:])
    output = png_path(options.output) if options.output else None
    with busy("looking for photographs"):
        paths, useless = find_photographs(argv[1:])
    with busy("opening the network"):
        loaded = _load()
        if options.heatmap:
            _check_heatmap(loaded)
    skipped: list[Path] = []

    def skip(path: Path, fault: str) -> None:
        skipped.append(path)
        say_error(f"skipped {_shown(str(path))}: {fault}")

    for place, fault in useless:
        skip(place, fault)
    first, count = [], 0
    if isinstance(loaded, LoadedDetector):
        for option in ("top", "batch_size"):
            if options[option].present:
                raise UserError(f"--{option} has no effect on a detector; leave it out")
        found, line = objects_in(loaded, paths, options.threshold, skip), line_of
    else:
        found = predict(loaded, paths, options.top, options.batch_size, skip, options.threshold)
        line = _line
    bar = True if sys.stdout.isatty() else None
    for each in tqdm(found, "predicting", len(paths), leave=False, disable=bar):
        text = line(each, options.json)
        print(text if options.json else fitted(text, sys.stdout))
        count += 1
        if count <= MOST_DRAWN:
            first.append(each)
    if output and first:
        if isinstance(loaded, LoadedDetector):
            output.write_bytes(png_of(draw_objects(loaded, first)))
        else:
            _save(draw(loaded, first, options.heatmap), output)
        which = f"the first {MOST_DRAWN} of {counted(count, 'photograph')}"
        which = which if count > MOST_DRAWN else counted(count, "photograph")
        print(f"figure of {which}: {output}", file=sys.stderr if options.json else sys.stdout)
    if skipped:
        sys.stdout.flush()
        raise RunError(
            f"{counted(len(skipped), 'file or folder' if useless else 'file')} could not be read, "
            f"and {counted(count, 'photograph')} could"
        )


def _check_options(places: list[str]) -> None:
    options = flags.FLAGS
    check_trained_flags(of_weights=("weights", "class_names"))
    if options.heatmap and not options.output:
        raise UserError("--heatmap draws in the figure of --output=FILE.png; give both, or neither")
    if not places:
        raise UserError("give photographs, or folders of photographs, for example photo.jpg")


def _check_heatmap(loaded: LoadedRun | LoadedDetector) -> None:
    """Raises `UserError` if a network has no class activation maps."""
    if isinstance(loaded, LoadedDetector):
        raise UserError("--heatmap is not for detectors, which draw where an object is; remove it")
    own = loaded.preparation
    shape = (1, own.size, own.size, len(own.mean))
    check_maps(loaded.network, loaded.variables, jax.ShapeDtypeStruct(shape, jnp.float32))


def _load() -> LoadedRun | LoadedDetector:
    options = flags.FLAGS
    if options.workdir:
        model = read_config(to_path(options.workdir)).model.name
        load = detection.load_run if is_detector(model) else load_run
        return load(options.workdir, options.step or "best", options.seed)
    names = None
    if options.class_names:
        path = to_path(options.class_names)
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--class_names={path} cannot be read: {error}; give a text file with a name in "
                "each line"
            ) from error
    if not is_detector(options.model):
        return load_weights(options.model, options.weights, names)
    if not options.weights:
        raise UserError(f"--model={options.model} needs a file with weights; add --weights=FILE")
    return detection.load_weights(options.model, options.weights, names)


def _line(found: Prediction, as_json: bool) -> str:
    """Returns what is printed of a photograph."""
    path = _shown(str(found.path))
    if as_json:
        names = ("classes", "indices", "probabilities")
        return json.dumps({"file": path, **{name: getattr(found, name) for name in names}})
    pairs = zip(found.classes, found.probabilities, strict=True)
    classes = ", ".join(f"{percent(share)} {name}" for name, share in pairs)
    return f"{path}: {classes or 'no class is likely'}"


def _save(figure: Any, path: Path) -> None:
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a name that the font cannot write
        figure.savefig(png, dpi=110)
    path.write_bytes(png.getvalue())


if __name__ == "__main__":
    define_flags()
    parser = functools.partial(parse_flags, positional=sys.maxsize)
    app.run(run_command(main), flags_parser=parser)
