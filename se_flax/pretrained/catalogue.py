"""The catalogue of published weights: the input that each set expects, and its published errors."""

import csv
import dataclasses
import functools
import importlib.resources

from se_flax.models import Preparation, model_info

FIGURES = "results-imagenet.csv of huggingface/pytorch-image-models on GitHub at 0173a139a2"


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A set of ImageNet weights that `load_pretrained` can read.

    Attributes:
        model: name of the network.
        source: location of the weights, a `source` for `load_pretrained`.
        input_size, crop_pct, interpolation: how images were resized and cropped to measure the
            errors, as in `se_flax.models.registry.ModelInfo`. They may differ from those of the
            network's publication.
        top1_error, top5_error: errors in percent on ImageNet's 50,000 validation images, single
            crop, according to `FIGURES`.
    """

    model: str
    source: str
    input_size: int
    crop_pct: float
    interpolation: str
    top1_error: float
    top5_error: float

    @property
    def preparation(self) -> Preparation:
        """How images are prepared for these weights; mean and std are the network's."""
        info = model_info(self.model)
        return Preparation(self.input_size, self.crop_pct, self.interpolation, info.mean, info.std)


@functools.cache
def catalogue() -> tuple[PublishedWeights, ...]:
    """Returns all weights in the catalogue; a network's first entry is its default."""
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
    """Returns a network's entry for a source, or its default entry; None if there is none."""
    own = model_info(model).same_as or model
    return next(
        (
            weights
            for weights in catalogue()
            if weights.model == own and source in (None, weights.source)
        ),
        None,
    )
