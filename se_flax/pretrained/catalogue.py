"""The catalogue of published weights: the input that each set expects, and its published errors."""

import csv
import dataclasses
import functools
import importlib.resources
import pathlib

from se_flax.models import Preparation, model_info

FIGURES = "results-imagenet.csv of huggingface/pytorch-image-models on GitHub at 0173a139a2"
TORCHVISION_FIGURES = "the metadata of weights in torchvision 0.28.0"


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A set of weights that `load_pretrained` can read.

    Attributes:
        model: name of the network.
        source: location of the weights: id of a hub repository, which is a `source` for
            `load_pretrained`, or the address of a file to download first.
        input_size: size of the images with which the errors were measured, in pixels. It and the
            next two may differ from those of the network's publication (`ModelInfo`).
        crop_pct: how these images were cropped.
        interpolation: how they were resized.
        top1_error: top-1 error in percent on the 50,000 validation images of ImageNet or the test
            images of the other data sets; single crop.
        top5_error: top-5 error, likewise, or None if it was not published.
        dataset: TFDS name of the data set that the weights were trained and evaluated on.
        mean: how images were normalised, as in `ModelInfo`; None if like `model_info(model)`.
        std: likewise.
        figures: publication of the errors.
    """

    model: str
    source: str
    input_size: int
    crop_pct: float
    interpolation: str
    top1_error: float
    top5_error: float | None
    dataset: str = "imagenet2012"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    figures: str = FIGURES

    @property
    def file(self) -> str:
        """Name of the file at `source`, without .zip, or "" if the source is on the hub."""
        _, address, path = self.source.partition("https://")
        return path.rpartition("/")[2].removesuffix(".zip") if address else ""

    @property
    def preparation(self) -> Preparation:
        """How images are prepared; mean and std are the network's if not given here."""
        info = model_info(self.model)
        mean, std = self.mean or info.mean, self.std or info.std
        return Preparation(self.input_size, self.crop_pct, self.interpolation, mean, std)


def _rows(file: str) -> list[dict[str, str]]:
    table = importlib.resources.files("se_flax.pretrained") / file
    return list(csv.DictReader(table.read_text().splitlines()))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split())


@functools.cache
def catalogue() -> tuple[PublishedWeights, ...]:
    """Returns all weights in the catalogue; a network's first entry on the hub is its default."""
    imagenet = (
        PublishedWeights(
            row["model"],
            row["source"],
            int(row["input_size"]),
            float(row["crop_pct"]),
            row["interpolation"],
            float(row["top1_error"]),
            float(row["top5_error"]),
            figures=figures,
        )
        for file, figures in (
            ("catalogue.csv", FIGURES),
            ("catalogue_torchvision.csv", TORCHVISION_FIGURES),
        )
        for row in _rows(file)
    )
    cifar = (
        PublishedWeights(
            row["model"],
            row["source"],
            input_size=32,
            crop_pct=1.0,
            interpolation="bilinear",
            top1_error=float(row["top1_error"]),
            top5_error=float(row["top5_error"]) if row["top5_error"] else None,
            dataset=row["dataset"],
            mean=_numbers(row["mean"]),
            std=_numbers(row["std"]),
            figures=row["figures"],
        )
        for row in _rows("catalogue_cifar.csv")
    )
    return (*imagenet, *cifar)


def find_weights(model: str, source: str | pathlib.Path | None = None) -> PublishedWeights | None:
    """Returns a network's entry for a source, or its default entry; None if there is none.

    A downloaded file is recognised by its name.
    """
    own = model_info(model).same_as or model
    file = pathlib.PurePath(source or "").name
    for weights in catalogue():
        wanted = not weights.file if source is None else str(source) == weights.source
        if weights.model == own and (wanted or (file and file == weights.file)):
            return weights
    return None
