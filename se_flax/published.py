"""Networks with published weights, and the mapping of a data set's classes to theirs."""

import dataclasses
import pathlib
import re
import warnings
from typing import Any

import flax.linen as nn
import numpy as np

from se_flax.data.image_source import ImageSource
from se_flax.data.sources import statistics_of
from se_flax.errors import Note, UserError
from se_flax.models import Preparation, create_model, model_info
from se_flax.models.registry import ModelInfo, Published
from se_flax.pretrained.catalogue import PublishedWeights, catalogue, find_weights
from se_flax.pretrained.described import class_names, stated_preparation
from se_flax.pretrained.load import check_source, find_file, load_with_fields
from se_flax.pretrained.synsets import synsets_of
from se_flax.pretrained.words import classes_of, in_words

LARGEST_SMALL = 32  # input size, in pixels, up to which networks are for small images


@dataclasses.dataclass(frozen=True)
class PublishedNetwork:
    """A network with published weights, and the labels of a data set's classes.

    Attributes:
        info: description of the network.
        known: the weights' entry in the catalogue, or None.
        weights: source of the weights.
        model, variables: the network.
        places: for each class of the data set, the index of the network's output.
    """

    info: ModelInfo
    known: PublishedWeights | None
    weights: str | pathlib.Path
    model: nn.Module
    variables: dict[str, Any]
    places: np.ndarray

    def class_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Returns a name per network output: the data set's class name, or else the index."""
        result = [str(i) for i in range(self.model.num_classes)]
        for name, place in zip(names, self.places, strict=True):
            result[place] = name
        return tuple(result)


def load_published(
    name: str, weights: str | pathlib.Path | None, class_names: tuple[str, ...] | None = None
) -> PublishedNetwork:
    """Loads a network with published weights.

    Args:
        name: name of the network.
        weights: a `source` for `load_pretrained`; by default the first in the catalogue.
        class_names: names of the data set's classes; without them, `places` are all outputs.

    Raises:
        UserError: if the weights cannot be read, or their classes do not match.
    """
    info = model_info(name)
    weights = source_of_weights(name, weights)
    overrides = {"auxiliary": False} if has_auxiliary(name) else {}  # only training uses it
    fields, variables = load_with_fields(name, weights, **overrides)
    num_classes = len(variables["params"]["classifier"]["bias"])
    places = np.arange(num_classes)
    if class_names is not None:
        places = _places_of_classes(class_names, num_classes)
    model = create_model(name, num_classes, **fields)
    known = find_weights(name, weights)
    return PublishedNetwork(info, known, weights, model, variables, places)


def own_classes(network: PublishedNetwork) -> tuple[str, ...]:
    """Returns the name of each output of a network with published weights.

    They are the classes of the data set in the catalogue, or those that the weights state. Other
    weights with 1000 outputs are taken for ImageNet's. Where nothing is known, a class is named by
    its number.
    """
    count = network.model.num_classes
    names = classes_of(network.known.dataset) if network.known else class_names(network.weights)
    if names is None and network.known is None and count == 1000:
        names = classes_of("imagenet2012")
    if names is None or len(names) != count:
        return tuple(map(str, range(count)))
    return in_words(names)


def has_auxiliary(name: str) -> bool:
    """Whether a registered network can have an auxiliary classifier."""
    return any(field.name == "auxiliary" for field in dataclasses.fields(model_info(name).module))


def source_of_weights(name: str, weights: str | pathlib.Path | None) -> str | pathlib.Path:
    """Returns the source of a network's weights, without reading them.

    Args:
        name, weights: see `load_published`.

    Raises:
        UserError: if there is no such file, none is in the catalogue, or the weights are known not
            to be for the network.
    """
    if weights is not None:
        check_source(name, weights)
        find_file(weights)
        return weights
    if known := find_weights(name):
        return known.source
    own = model_info(name).same_as or name
    files = [entry.source for entry in catalogue() if entry.model == own]
    if files:
        raise UserError(
            f'weights for "{name}" must be downloaded first, for example {files[0]}; then give '
            "--weights=FILE"
        )
    raise UserError(
        f'the catalogue has no weights for "{name}"; give --weights=FILE, or choose one of the '
        "models that python -m se_flax.pretrained lists"
    )


def preparation_for(
    name: str, weights: str | pathlib.Path | None, dataset: str | None = None
) -> Preparation:
    """Returns how the images of a data set are prepared for published weights.

    It is what `se_flax.pretrained.preparation` returns, except for networks for small images,
    which are published for several data sets: if nothing is stated with the weights, images are
    normalised by the data set's own mean and standard deviation where these are known.

    Args:
        name: name of the network.
        weights: a `source` for `load_pretrained`; by default the first in the catalogue.
        dataset: name of a TFDS data set.

    Raises:
        UserError: if there is no such network, the hub cannot be read, or the weights are known
            not to be for the network.
    """
    if weights is not None:
        check_source(name, weights)  # before the hub is asked
    stated = stated_preparation(name, weights)
    own = model_info(name).preparation
    known = statistics_of(dataset) if dataset and own.size <= LARGEST_SMALL else None
    if stated or known is None:
        return stated or own
    return dataclasses.replace(own, mean=known[0], std=known[1])


def warn_of_other_dataset(
    name: str, weights: str | pathlib.Path | None, dataset: str | None
) -> None:
    """Issues a `Note` if weights for small images are evaluated on another data set than their own.

    The numbers of classes do not show it: CIFAR-10 and SVHN both have ten. Data sets whose names
    start with that of their own (`cifar10_1`) have the same classes. ImageNet's classes are known
    by name, so its weights can be used on many data sets.

    Args:
        name: name of the network.
        weights: a `source` for `load_pretrained`; by default the first in the catalogue.
        dataset: name of a TFDS data set; None for other images.
    """
    known = find_weights(name, weights)
    if known is None or known.dataset == "imagenet2012" or dataset is None:
        return
    if not f"{dataset.partition('/')[0]}_".startswith(f"{known.dataset}_"):
        warnings.warn(
            f"{weights} was trained on {known.dataset}, and the images are those of {dataset}; the "
            "results have a meaning only if the classes are the same, in the same order",
            Note,
            stacklevel=2,
        )


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A source with its labels replaced by `places[label]`."""

    source: ImageSource
    places: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = self.source[i]
        return {**record, "label": self.places[record["label"]]}

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return self.source.describe(i)


def _places_of_classes(names: tuple[str, ...], num_classes: int) -> np.ndarray:
    """Returns, for each class of the images, the index of the network's output."""
    # Synsets come first: TFDS's imagenet_resized has all 1000, in another order.
    if num_classes == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in names):
        synsets = synsets_of("imagenet2012")
        if set(names) <= set(synsets):
            return np.array([synsets.index(name) for name in names])
    if len(names) == num_classes:
        return np.arange(num_classes)
    raise UserError(
        f"the images have {len(names)} classes ({', '.join(names[:3])}, ...), but the weights have "
        f"{num_classes}; use images with the same classes, or with classes named by ImageNet's "
        "synsets (for example n01440764)"
    )


def published_results(loaded: PublishedNetwork) -> list[dict[str, Any]]:
    """Returns the published results of weights, and then those of their network."""
    known = loaded.known
    trained_on = known.dataset if known else "imagenet2012"
    results = [result for result in loaded.info.published if result.dataset == trained_on]
    if known:
        by = f"{known.file or known.source} on {trained_on} by {known.figures}"
        results.insert(0, Published(trained_on, known.top1_error, known.top5_error, by))
    return [
        {
            "top1_error": result.top1_error,
            "top5_error": result.top5_error,
            "source": result.source,
        }
        for result in results
    ]
