"""The subject of an analysis: a trained network, and labelled images."""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float, Int, UInt8
from PIL import Image

from se_flax.data.batches import host_images
from se_flax.data.dataset import HostImages, ImageDataset, is_multi_label
from se_flax.data.folders import ImageFolder
from se_flax.data.images import CenterCrop
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.sources import TfdsImages, evaluation_split
from se_flax.errors import UserError, nearest
from se_flax.published import (
    Renamed,
    load_published,
    preparation_for,
    warn_of_other_dataset,
)
from se_flax.restored import restore_run
from se_flax.runtime.paths import Path, is_in_bucket, resolved, to_path
from se_flax.runtime.storage import is_writable, make_folder
from se_flax.runtime.writers import TensorBoardWriter


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, and images to evaluate it on.

    Attributes:
        name: name of the network, for titles and messages.
        model, variables: the network.
        class_names: name of each class.
        batches: function of the batch size that yields batches of uint8 images and labels.
        preprocessing: normalises the images.
        images: name of the images, for titles.
        step: step of the run's checkpoint.
    """

    name: str
    model: nn.Module
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    batches: Callable[[int], Iterator[HostImages]]
    preprocessing: Preprocessing
    images: str = ""
    step: int = 0

    def normalize(self, images: UInt8[np.ndarray, "b h w c"]) -> Float[jax.Array, "b h w c"]:
        """Returns normalised images, the network's input."""
        return self.preprocessing.normalize(jnp.asarray(images))

    def classes(self, wanted: Sequence[str]) -> list[int]:
        """Returns the numbers of classes that are given by name or number.

        Raises:
            UserError: if there is no class of this name or number.
        """
        places = []
        for name in wanted:
            if name in self.class_names:
                places.append(self.class_names.index(name))
            elif name.isdigit() and int(name) < len(self.class_names):
                places.append(int(name))
            else:
                raise UserError(
                    f'there is no class "{name}"{nearest(name, self.class_names)}; give the name '
                    f"of a class, or a number from 0 to {len(self.class_names) - 1}"
                )
        return places


def subject_of_run(
    workdir: str | os.PathLike[str],
    step: str | int = "best",
    split: str = "test",
    seed: int | None = None,
    dataset: ImageDataset | None = None,
    data_dir: str | None = None,
    image_dir: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> Subject:
    """Returns the network in a run's checkpoint, and the images of a split or a folder.

    Args:
        workdir, step, dataset, data_dir: see `se_flax.evaluate.evaluate_workdir`.
        split: "test", "train" (not augmented) or, if the run held images out, "validation".
        seed: seed of the network, if the run has several; by default the first.
        image_dir, skip_bad: see `se_flax.evaluate.evaluate_workdir`.

    Raises:
        UserError: if the run, checkpoint, split or seed does not exist, or images cannot be read.
    """
    run = restore_run(workdir, step, dataset, data_dir, image_dir, skip_bad)
    place = run.place_of(seed)
    run.check_split(split)
    if is_multi_label(run.program.dataset):
        raise UserError(
            f"{workdir} was trained on images of several classes, but this needs one class for "
            "each image; python -m se_flax.evaluate shows how good such a network is"
        )
    name, images = run.program.config.model.name, run.program.dataset
    if not isinstance(images, ImageDataset):
        raise UserError(
            f"{workdir} has the detector {name}, but this needs a network for classification; "
            "python -m se_flax.evaluate shows how good a detector is"
        )
    if len(run.seeds) > 1:
        name = f"{name}, seed {run.seeds[place]}"
    return Subject(
        name=name,
        model=run.model,
        variables=jax.device_get(run.variables()[place]),
        class_names=images.class_names,
        batches=functools.partial(images.host_images, split),
        preprocessing=Preprocessing.of(images),
        images=f"{images.name} {split}" if image_dir is None else images.name,
        step=run.steps[place],
    )


def subject_of_weights(
    name: str,
    weights: str | pathlib.Path | None = None,
    image_dir: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    skip_bad: bool = False,
) -> Subject:
    """Returns a network with published weights, and the images in a folder or TFDS data set.

    Args:
        name: name of the network.
        weights: a `source` for `load_pretrained`; by default the first in the catalogue.
        image_dir: folder with one folder of images per class.
        dataset, split, data_dir: name, split and location of a TFDS data set, instead of a
            folder. The default split is "validation", or "test" if there is none.
        skip_bad: whether to skip unreadable images of a folder instead of raising.

    Raises:
        UserError: if the weights or images cannot be read, or their classes do not match.
    """
    if (image_dir is None) == (dataset is None):
        raise UserError("give either a folder of images (image_dir) or a TFDS data set (dataset)")
    if image_dir is not None:
        source, images = ImageFolder.of(image_dir).checked(skip_bad), str(image_dir)
    else:
        split = split or evaluation_split(dataset, data_dir)
        source, images = TfdsImages(dataset, split, data_dir), f"{dataset} {split}"
    loaded = load_published(name, weights, source.class_names)
    warn_of_other_dataset(name, weights, dataset)
    prepared = preparation_for(name, weights, dataset)
    renamed = Renamed(source, loaded.places, loaded.class_names(source.class_names))
    return Subject(
        name=name,
        model=loaded.model,
        variables=loaded.variables,
        class_names=renamed.class_names,
        batches=functools.partial(host_images, renamed, CenterCrop.of(prepared)),
        preprocessing=Preprocessing(prepared.mean, prepared.std),
        images=images,
    )


def define_flags() -> None:
    """Declares the options that select the networks and images."""
    flags.DEFINE_list("workdir", [], "Workdirs of runs.")
    flags.DEFINE_string(
        "step", None, 'Checkpoint of a run: "best" (the default), "latest" or a step.'
    )
    flags.DEFINE_integer("seed", None, "Seed, if a run has several; by default the first.", 0)
    flags.DEFINE_list("model", [], "Instead of --workdir: networks with published weights.")
    flags.DEFINE_string("weights", None, "Hub id or file; by default the first in the catalogue.")
    flags.DEFINE_string(
        "image_dir",
        None,
        "Folder with one folder per class. With --workdir, they are named after the run's classes, "
        "and the run's own data set is not needed.",
    )
    flags.DEFINE_bool("skip_bad", False, "Skip images in --image_dir that cannot be read.")
    flags.DEFINE_string("dataset", None, "With --model: TFDS data set, instead of --image_dir.")
    flags.DEFINE_string(
        "split",
        None,
        'Split of the run\'s data set (by default "test") or of --dataset (by default '
        '"validation").',
    )
    flags.DEFINE_string("data_dir", None, "Folder of TFDS data sets, if not TFDS's default.")
    flags.DEFINE_integer("batch_size", 100, "Number of images per batch.", 1)
    flags.DEFINE_integer("max_images", None, "Use only the first MAX_IMAGES images.", 1)


def define_output(default: str, more: str = "") -> None:
    """Declares the option that says where the figure goes."""
    text = f"PNG file to write; by default figures/{default} in the workdir, or {default}"
    flags.DEFINE_string("output", None, f"{text}; {more}." if more else f"{text}.")


def subjects_of_flags(most: int | None = None) -> list[Subject]:
    """Returns the subjects that the options select.

    Raises:
        UserError: if the options select none or more than `most`, or cannot be combined.
    """
    options = flags.FLAGS
    if bool(options.workdir) == bool(options.model):
        raise UserError(
            "give either --workdir=DIR, for example --workdir=runs/quickstart, or, for published "
            "weights, --model=NAME"
        )
    for given, others in (
        ("workdir", ("weights", "dataset")),
        ("model", ("seed", "step")),
        ("image_dir", ("split", "data_dir")),
    ):
        for name in others:
            if options[given].value and options[name].value not in (None, False):
                raise UserError(f"--{name} cannot be combined with --{given}; remove one of them")
    if options.skip_bad and not options.image_dir:
        raise UserError("--skip_bad is for the images of --image_dir=DIR; give both, or neither")
    count = len(options.workdir + options.model)
    if most is not None and count > most:
        raise UserError(
            f"this command takes one network, but {count} are given; run it once for each"
        )
    if options.weights and len(options.model) > 1:
        raise UserError(
            f"--weights belong to one model, but --model names {len(options.model)}; give one model"
        )
    if options.workdir:
        return [
            subject_of_run(
                *(workdir, options.step or "best", options.split or "test", options.seed),
                data_dir=options.data_dir,
                image_dir=options.image_dir,
                skip_bad=options.skip_bad,
            )
            for workdir in options.workdir
        ]
    return [
        subject_of_weights(
            *(name, options.weights, options.image_dir, options.dataset),
            *(options.split, options.data_dir, options.skip_bad),
        )
        for name in options.model
    ]


def limited(batches: Iterator[HostImages], most: int | None) -> Iterator[HostImages]:
    """Yields batches until they contain `most` images."""
    left = most
    for images, labels in batches:
        if left is not None:
            images, labels = images[:left], labels[:left]
            left -= len(labels)
        if len(labels):
            yield images, labels
        if left == 0:
            return


def normalized(
    subject: Subject, batch_size: int, most: int | None = None
) -> Iterator[tuple[Float[jax.Array, "b h w c"], Int[np.ndarray, " b"]]]:
    """Yields batches of at most `most` normalised images in total, and their labels."""
    for images, labels in limited(subject.batches(batch_size), most):
        yield subject.normalize(images), labels


def output_path(default: str) -> Path:
    """Returns the PNG file of --output; by default a file in the run's folder `figures`.

    The default name of a figure of other images ends in the name of their folder.
    If there are several runs, that is the folder of the first; if there is none, the current one.

    Raises:
        UserError: if the file is no PNG file, or its folder does not exist.
    """
    options = flags.FLAGS
    if options.output is None:
        workdir = to_path(options.workdir[0]) if options.workdir else None
        if workdir is not None and workdir.is_dir() and not is_writable(workdir):
            raise UserError(
                f"{workdir} cannot be written to; give another place with --output=FILE"
            )
        if workdir is None:
            return to_path(default)
        if options.image_dir:  # beside the figure of the run's own images
            default = default.replace(".png", f"_{resolved(to_path(options.image_dir)).name}.png")
        return workdir / "figures" / default
    return png_path(options.output)


def png_path(output: str) -> Path:
    """Returns the PNG file that --output names.

    Raises:
        UserError: if it is no PNG file, or its folder does not exist.
    """
    path = to_path(output)
    if path.suffix.lower() != ".png":
        raise UserError(f"--output={path} must end in .png")
    if not is_in_bucket(path) and not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}; create it first")
    return path


def save_figure(figure: Any, path: Path, subject: Subject) -> None:
    """Writes a figure to a PNG file; one in a run's folder is also shown by TensorBoard."""
    options = flags.FLAGS
    png = io.BytesIO()
    figure.savefig(png, dpi=110)
    make_folder(path.parent)
    path.write_bytes(png.getvalue())
    if options.output is None and options.workdir:
        writer = TensorBoardWriter(path.parent.parent)
        size = Image.open(png).size
        writer.write_image(subject.step, f"figures/{path.stem}", png.getvalue(), *size)
        writer.close()
