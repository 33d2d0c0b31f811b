"""A trained network, opened without the data it was trained on: of a run, or published weights."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from se_flax.errors import UserError, opening_a_run
from se_flax.models import Preparation

if TYPE_CHECKING:
    from se_flax.data.dataset import ImageDataset

# A file, its content, or an array [h, w], [h, w, 1] or [h, w, 3] with values from 0 to 255.
Image = str | os.PathLike[str] | bytes | UInt8[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained network, and what is needed to use it.

    `load_run` returns that of a run, and `load_weights` one with published weights.

    Attributes:
        network: the network; `network.apply(variables, images, train=False)` gives the logits
            [n, number of classes] of prepared images.
        variables: its variables; of a run with `config.ema_decay`, their moving average.
        classes: name of each class, in the order of the logits.
        preparation: how its images are prepared. One mean says that they are grey levels.
        step: step of the checkpoint; 0 for published weights.
        loss: `config.loss` of the run, "softmax" or "bce".
        multi_label: whether an image can have several classes, or none.
        exif_orientation: whether files are turned as their EXIF orientation says.
    """

    network: nn.Module
    variables: dict[str, Any]
    classes: tuple[str, ...]
    preparation: Preparation
    step: int
    loss: str = "softmax"
    multi_label: bool = False
    exif_orientation: bool = False

    def probabilities(self, logits: Float[Array, "n classes"]) -> Float[Array, "n classes"]:
        """Returns the probability of each class: the softmax, or with "bce" each one's sigmoid."""
        return jax.nn.sigmoid(logits) if self.loss == "bce" else jax.nn.softmax(logits)

    def prepare(self, images: Image | Iterable[Image]) -> Float[Array, "n size size c"]:
        """Returns images, resized, cropped and normalised as in the run's evaluations.

        Args:
            images: an image, or several. Each is the path of a file, the content of a file, or an
                array of uint8: [h, w, 3] is red, green and blue, and [h, w] or [h, w, 1] is grey.
                They may differ in size.

        Returns:
            The network's input, float32 [n, size, size, channels]; n is 1 for one image.

        Raises:
            UserError: if there is no image, or one cannot be read.
        """
        from se_flax.data.images import CenterCrop
        from se_flax.data.preprocessing import Preprocessing

        own = self.preparation
        is_array = isinstance(images, np.ndarray)
        if isinstance(images, str | os.PathLike | bytes) or (is_array and images.ndim < 4):
            images = [images]
        crop = CenterCrop.of(own, len(own.mean))
        cropped = [crop(_pixels(image, self.exif_orientation)) for image in images]
        if not cropped:
            raise UserError("there are no images to prepare; give at least one")
        return Preprocessing(own.mean, own.std).normalize(np.stack(cropped))


def load_run(
    workdir: str | os.PathLike[str],
    step: str | int = "best",
    seed: int | None = None,
    dataset: "ImageDataset | None" = None,
) -> LoadedRun:
    """Opens a trained network; the data that it was trained on is not needed.

    It needs the packages of training: `pip install "se_flax[train]"`.

    Args:
        workdir: folder of the run, on a disk or in a bucket ("gs://BUCKET/FOLDER").
        step: "best", "latest" or the step of a checkpoint.
        seed: seed of the network, if the run has several; by default the first.
        dataset: the run's data set, if a run of an earlier version needs it (an error says so).

    Returns:
        The network, its variables, its classes, and how images are prepared for it.

    Raises:
        UserError: if the run, checkpoint or seed does not exist, a run of an earlier version needs
            its data set, or packages are missing.
    """
    with opening_a_run():
        from se_flax.restored import restore_without_images
        from se_flax.runtime.paths import to_path
    run, preparation = restore_without_images(to_path(workdir), step, dataset)
    place = run.place_of(seed)
    return LoadedRun(
        network=run.model,
        variables=jax.device_get(run.variables()[place]),
        classes=run.program.dataset.class_names,
        preparation=preparation,
        step=run.steps[place],
        loss=run.program.config.loss,
        multi_label=run.program.config.dataset.multi_label,
        exif_orientation=run.program.config.dataset.exif_orientation,
    )


def load_weights(
    name: str,
    source: str | pathlib.Path | None = None,
    classes: Sequence[str] | None = None,
) -> LoadedRun:
    """Opens a network with published weights, whose classes are named in words.

    It needs the packages of training: `pip install "se_flax[train]"`.

    Args:
        name: a name in `se_flax.list_models()`.
        source: a `source` for `se_flax.load_pretrained`; by default the first in the catalogue.
        classes: name of each class, in the order of the logits. By default those of the data set
            that the weights were trained on, if it is known: see `se_flax.published.own_classes`.

    Raises:
        UserError: if the weights cannot be read, or `classes` are not as many as theirs.
    """
    from se_flax.pretrained.described import meaning_of_logits
    from se_flax.published import load_published, own_classes, preparation_for

    loaded = load_published(name, source)
    names = own_classes(loaded) if classes is None else tuple(classes)
    if len(names) != loaded.model.num_classes:
        raise UserError(
            f"{len(names)} classes are named, but the weights in {loaded.weights} have "
            f"{loaded.model.num_classes}; name each of them, in the order of the logits"
        )
    return LoadedRun(
        network=loaded.model,
        variables=loaded.variables,
        classes=names,
        preparation=preparation_for(name, source),
        step=0,
        **meaning_of_logits(loaded.weights),
    )


def _pixels(image: Image, upright: bool) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image as RGB; raises `UserError` if it is none."""
    from se_flax.data.images import decode
    from se_flax.runtime.paths import read_bytes, to_path

    if isinstance(image, np.ndarray):
        shaped = image[..., None] if image.ndim == 2 else image
        if shaped.dtype != np.uint8 or shaped.ndim != 3 or shaped.shape[-1] not in (1, 3):
            raise UserError(
                "an image must be a file or an array of uint8 with shape [h, w], [h, w, 1] or "
                f"[h, w, 3], not {image.dtype} {list(image.shape)}"
            )
        return decode(shaped)
    if isinstance(image, bytes):
        return decode(image, upright)
    path = to_path(image)
    try:
        return decode(read_bytes(path), upright)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; give the path of an image"
        ) from error
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
