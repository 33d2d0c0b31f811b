"""Class activation maps: where in an image a network sees a class.

python -m se_flax.analysis.heatmaps --workdir=runs/resnet_cifar10,runs/se_resnet_cifar10

As in the figures of EfficientNet (arXiv:1905.11946, section 5.3), which follow Zhou et al.,
"Learning Deep Features for Discriminative Localization" (arXiv:1512.04150).
"""

import collections
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, Int, UInt8

from se_flax.analysis.figures import pyplot
from se_flax.analysis.subject import (
    Subject,
    define_flags,
    limited,
    output_path,
    subjects_of_flags,
)
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError


def class_activation_maps(
    model: nn.Module,
    variables: dict[str, Any],
    images: Float[Array, "n height width 3"],
    classes: Int[Array, " n"] | None = None,
) -> tuple[Float[np.ndarray, "n h w"], Float[np.ndarray, "n num_classes"]]:
    """Returns where each image has what speaks for a class, and the logits.

    With the last map f and the classifier's weights w and biases b, the map of class k is
    sum_c w_ck f_c + b_k at each position (arXiv:1512.04150, equation 2); its mean over the
    positions is the logit of the class.

    Args:
        model, variables: a network that ends in a mean over all positions and a dense layer
            `classifier`.
        images: normalised.
        classes: of each image, which; by default the one that the network says.

    Raises:
        UserError: if the network ends otherwise.
    """
    classifier = variables["params"]["classifier"]

    @jax.jit
    def compute(variables, images):
        logits = model.apply(variables, images, train=False)
        maps = model.apply(variables, images, train=False, features=True)
        return logits, list(maps.values())[-1]

    logits, last = compute(variables, images)
    if last.shape[-1] != len(classifier["kernel"]):
        raise UserError(
            "class activation maps are of networks that classify the mean of their last map; "
            f"this one has {last.shape[-1]} channels there, but its classifier takes "
            f"{len(classifier['kernel'])} numbers"
        )
    classes = jnp.argmax(logits, axis=-1) if classes is None else jnp.asarray(classes)
    weights = classifier["kernel"][:, classes]
    maps = jnp.einsum("nhwc,cn->nhw", last.astype(jnp.float32), weights)
    maps += classifier["bias"][classes, None, None]
    return np.asarray(maps), np.asarray(logits)


def overlay(
    image: UInt8[np.ndarray, "height width c"], activation: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "height width 3"]:
    """Returns an image of values 0 to 1 under its map, which is stretched to all colours.

    The map is enlarged bilinearly; its smallest value is dark blue, its largest yellow (cividis,
    which is the same to colour-blind readers).
    """
    import matplotlib

    enlarged = np.asarray(jax.image.resize(activation, image.shape[:2], "bilinear"))
    span = np.ptp(enlarged)
    scaled = (enlarged - enlarged.min()) / span if span else np.zeros_like(enlarged)
    colours = matplotlib.colormaps["cividis"](scaled)[..., :3]
    grey = np.broadcast_to(image.mean(-1, keepdims=True) / 255, colours.shape)
    return 0.45 * grey + 0.55 * colours


def draw_heatmaps(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: Sequence[tuple[str, Sequence[np.ndarray], Sequence[np.ndarray], Sequence[str]]],
):
    """Returns a figure: a row for each image, and beside it a column for each network.

    Args:
        images: uint8 [height, width, 1 or 3].
        captions: of each image.
        columns: of each network its name, the images as it is shown them, their maps, and what
            to write over each.
    """
    figure, axes = pyplot().subplots(
        len(images),
        1 + len(columns),
        figsize=(2.2 * (1 + len(columns)), 2.45 * len(images) + 0.3),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, image in enumerate(images):
        shown = np.broadcast_to(image, (*image.shape[:2], 3))
        axes[row, 0].imshow(shown, interpolation="nearest")
        axes[row, 0].set_title(captions[row], fontsize=8)
        for column, (name, own, maps, said) in enumerate(columns, start=1):
            axes[row, column].imshow(overlay(own[row], maps[row]))
            title = f"{name}\n{said[row]}" if row == 0 else said[row]
            axes[row, column].set_title(title, fontsize=8)
    figure.tight_layout()
    return figure


def choose_images(
    subject: Subject, wanted: Sequence[int], count: int, batch_size: int, most: int | None = None
) -> tuple[list[UInt8[np.ndarray, "height width c"]], list[int]]:
    """Returns the first images of some classes, equally many of each as far as there are, and
    their labels.

    Raises:
        UserError: if there are none.
    """
    share = -(-count // len(wanted))  # of each class; others stand by where one has fewer
    chosen: list[tuple[np.ndarray, int]] = []
    others: list[tuple[np.ndarray, int]] = []
    taken: dict[int, int] = collections.Counter()
    for images, labels in limited(subject.batches(batch_size), most):
        for image, label in zip(images, labels.tolist(), strict=True):
            if label in wanted and len(chosen) < count:
                if taken[label] < share:
                    chosen.append((image, label))
                    taken[label] += 1
                elif len(others) < count:
                    others.append((image, label))
        if len(chosen) == count:
            break
    chosen += others[: count - len(chosen)]
    if not chosen:
        raise UserError("there are no images of these classes")
    return [image for image, _ in chosen], [label for _, label in chosen]


def main(argv: list[str]) -> None:
    """Draws the class activation maps of several networks side by side."""
    options = flags.FLAGS
    output = output_path(options.output, ".png")
    subjects = subjects_of_flags()
    names = subjects[0].class_names
    wanted = subjects[0].classes(options.classes) or range(len(names))
    columns, shown = [], ([], [])
    for subject in subjects:
        images, labels = choose_images(
            subject, wanted, options.count, options.batch_size, options.max_images
        )
        if not columns:
            shown = images, labels
        if (subject.class_names, labels) != (names, shown[1]):
            raise UserError(f"{subject.name} and {subjects[0].name} are shown different images")
        maps, logits = class_activation_maps(
            subject.model,
            subject.variables,
            subject.normalize(np.stack(images)),
            None if options.predicted else np.array(labels),
        )
        shares = 100 * np.asarray(jax.nn.softmax(logits, axis=-1)).max(-1)
        said = logits.argmax(-1)
        lines = [f"says {names[k]}, {share:.0f}%" for k, share in zip(said, shares, strict=True)]
        columns.append((subject.name, images, maps, lines))
        print(f"{subject.name}: {np.sum(said == labels)} of {len(labels)} right")
    if len(shown[1]) < options.count:
        print(f"there are no more than {len(shown[1])} such images")
    figure = draw_heatmaps(shown[0], [names[label] for label in shown[1]], columns)
    figure.savefig(output, dpi=110)
    of = "the class that each network says" if options.predicted else "the true class"
    print(f"{output} shows where they see {of}")


def _define_flags() -> None:
    define_flags()
    flags.DEFINE_list("classes", [], "Names or numbers of classes to show images of; default all.")
    flags.DEFINE_integer("count", 5, "Number of images.", 1)
    flags.DEFINE_bool("predicted", False, "Maps of what the network says, not of the true class.")
    flags.DEFINE_string("output", "heatmaps.png", "PNG file to write.")


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
