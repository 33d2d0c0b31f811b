"""The weights of the classes in a run's loss."""

import numpy as np
from ml_collections import ConfigDict

from se_flax.data.dataset import ImageDataset, known_labels
from se_flax.errors import UserError


def class_weights_of(config: ConfigDict, dataset: ImageDataset) -> tuple[float, ...]:
    """Returns the weight of each class in the loss, or () if every class weighs the same.

    "balanced" is n / (C n_c), as in scikit-learn's `compute_class_weight`, for C classes, n labels
    and n_c of them of class c. All training images count, without those that are held out. An
    image of several classes has several labels.

    Args:
        config: of the run.
        dataset: of the run.

    Raises:
        UserError: if there are not as many weights as classes; or if they are to be balanced, and a
            class has no training image, or the classes are not known without reading all images.
    """
    given, names = config.class_weights, dataset.class_names
    if not given:
        return ()
    if given != "balanced":
        if len(given) != len(names):
            raise UserError(
                f"config.class_weights={tuple(given)} has {len(given)} weights, but {dataset.name} "
                f"has {len(names)} classes; give one for each, in the order of their names"
            )
        return tuple(map(float, given))
    labels = known_labels(dataset.splits["train"])
    if labels is None:
        raise UserError(
            f'config.class_weights="balanced" cannot count the classes of {dataset.name}, whose '
            "labels are stored with its images; give a number for each class"
        )
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names))
    if not counts.all():
        missing = names[int(np.argmin(counts))]
        raise UserError(
            f'config.class_weights="balanced" has no weight for "{missing}", a class of '
            f"{dataset.name} without training images; remove the class, or give a number for each"
        )
    return tuple((counts.sum() / (len(names) * counts)).tolist())
