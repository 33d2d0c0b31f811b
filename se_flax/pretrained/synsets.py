"""The order of ImageNet's classes."""

from typing import Any


def synsets_of(name: str) -> tuple[str, ...]:
    """Returns the synsets (n01440764) of a TFDS form of ImageNet, in the order of its labels.

    Args:
        name: name of the data set, which need not be prepared, such as "imagenet2012".
    """
    import tensorflow_datasets as tfds

    features: Any = tfds.builder(name).info.features
    return tuple(features["label"].names)
