"""The catalogue of published weights: what each set of them takes, and should score."""

import csv
import dataclasses
import functools
import importlib.resources

from se_flax.models import model_info

FIGURES = "results-imagenet.csv of huggingface/pytorch-image-models on GitHub at 0173a139a2"


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A set of weights for ImageNet that `load_pretrained` reads.

    Images are normalised by `model_info(model).mean` and `.std`.

    Attributes:
        model: the network they are of.
        source: where they are, a `source` for `load_pretrained`.
        input_size, crop_pct, interpolation: of the images their errors are measured on, as in
            `se_flax.models.registry.ModelInfo`; not always those that the network was published
            with.
        top1_error, top5_error: on ImageNet's 50,000 validation images, single crop, in percent,
            by `FIGURES`.
    """

    model: str
    source: str
    input_size: int
    crop_pct: float
    interpolation: str
    top1_error: float
    top5_error: float


@functools.cache
def catalogue() -> tuple[PublishedWeights, ...]:
    """Returns all published weights that are known; of a network, the first are the default."""
    table = importlib.resources.files("se_flax.pretrained") / "catalogue.csv"
    return tuple(
        PublishedWeights(
            row["model"],
            row["source"],
            int(row["input_size"]),
            float(row["crop_pct"]),
            row["interpolation"],
            float(row["top1_error"]),
            float(row["top5_error"]),
        )
        for row in csv.DictReader(table.read_text().splitlines())
    )


def find_weights(model: str, source: str | None = None) -> PublishedWeights | None:
    """Returns the weights of a network from a source, or from the default one, if known."""
    own = model_info(model).same_as or model
    return next(
        (
            weights
            for weights in catalogue()
            if weights.model == own and source in (None, weights.source)
        ),
        None,
    )
