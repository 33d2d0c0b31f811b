"""Class activation maps: which parts of an image are evidence for a class.

python -m se_flax.analysis.heatmaps --workdir=runs/resnet_cifar10,runs/se_resnet_cifar10

They are drawn as in the EfficientNet paper (arXiv:1905.11946, section 6), which follows Zhou et
al., "Learning Deep Features for Discriminative Localization" (arXiv:1512.04150).
"""

import collections
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, Int, UInt8

from se_flax.analysis.figures import COLOURS, pyplot
from se_flax.analysis.subject import (
    Subject,
    define_flags,
    define_output,
    limited,
    output_path,
    save_figure,
    subjects_of_flags,
)
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.runtime.status import busy


def class_activation_maps(
    model: nn.Module,
    variables: dict[str, Any],
    images: Float[Array, "n height width c"],
    classes: Int[Array, " n"] | Int[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, "n h w"], Float[np.ndarray, "n num_classes"]]:
    """Returns one class activation map per image, and the logits.

    With the last feature map f and the classifier's weights w and biases b, the map of class k is
    sum_c w_ck f_c + b_k at each position (arXiv:1512.04150, equation 2). Its mean over the
    positions is the logit of the class.

    Args:
        model: a network that ends in a mean over all positions and a dense layer `classifier`.
        variables: its variables.
        images: batch of normalised images, [n, height, width, c].
        classes: class whose map is computed for each image, [n]; by default the predicted class.

    Raises:
        UserError: if the network does not end in this way.
    """
    check_maps(model, variables, images)
    classifier = variables["params"]["classifier"]

    @jax.jit
    def compute(variables, images):
        logits = model.apply(variables, images, train=False)
        maps = model.apply(variables, images, train=False, features=True)
        return logits, list(maps.values())[-1]

    logits, last = compute(variables, images)
    classes = jnp.argmax(logits, axis=-1) if classes is None else jnp.asarray(classes)
    weights = classifier["kernel"][:, classes]
    maps = jnp.einsum("nhwc,cn->nhw", last.astype(jnp.float32), weights)
    maps += classifier["bias"][classes, None, None]
    return np.asarray(maps), np.asarray(logits)


def check_maps(
    model: nn.Module, variables: dict[str, Any], images: jax.ShapeDtypeStruct | jax.typing.ArrayLike
) -> None:
    """Raises `UserError` if a network has no class activation maps; computes nothing.

    Args:
        model: the network.
        variables: its variables.
        images: images, or their shape and type.
    """
    features = functools.partial(model.apply, train=False, features=True)
    last = list(jax.eval_shape(features, variables, images).values())[-1]
    inputs = len(variables["params"]["classifier"]["kernel"])
    if last.shape[-1] != inputs:
        raise UserError(
            "class activation maps need a network that classifies the mean of its last feature "
            f"map, but this one's has {last.shape[-1]} channels and its classifier takes "
            f"{inputs} inputs; choose another network"
        )


def overlay(
    image: UInt8[np.ndarray, "height width c"], activation: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "height width 3"]:
    """Draws a class activation map over a grey version of its image; values are from 0 to 1.

    The map is resized bilinearly. Its smallest value becomes dark blue and its largest yellow
    (cividis, which colour-blind readers can read as well).
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
    columns: Sequence[
        tuple[str, Sequence[np.ndarray], Sequence[np.ndarray], Sequence[str], Sequence[bool]]
    ],
):
    """Returns a figure with a row per image: the image, then its overlay for each network.

    The caption of a right prediction is blue, with a check mark, and that of a wrong one orange,
    with a cross. The colour scale is that of `overlay`.

    Args:
        images: images for the first column, uint8 [height, width, 1 or 3].
        captions: caption of each image.
        columns: for each network (name, its input images, their class activation maps, its
            predictions as text, whether each is right).
    """
    height, strip = 2.45 * len(images) + 0.9, 0.6  # inches; the strip is for the colour scale
    figure, axes = pyplot().subplots(
        len(images),
        1 + len(columns),
        figsize=(2.2 * (1 + len(columns)), height),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, image in enumerate(images):
        shown = np.broadcast_to(image, (*image.shape[:2], 3))
        axes[row, 0].imshow(shown, interpolation="nearest")
        axes[row, 0].set_title(captions[row], fontsize=8)
        for column, (name, own, maps, said, right) in enumerate(columns, start=1):
            axes[row, column].imshow(overlay(own[row], maps[row]))
            title = f"\N{CHECK MARK} {said[row]}" if right[row] else f"\N{BALLOT X} {said[row]}"
            title = f"{name}\n{title}" if row == 0 else title
            color = COLOURS[0] if right[row] else COLOURS[1]
            axes[row, column].set_title(title, fontsize=8, color=color)
    figure.tight_layout(rect=(0, strip / height, 1, 1))
    place = figure.add_axes((0.25, 0.5 * strip / height, 0.5, 0.12 / height))
    scale = pyplot().cm.ScalarMappable(cmap="cividis")
    bar = figure.colorbar(scale, cax=place, orientation="horizontal")
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=8)
    place.set_title("evidence for the class, in each image", fontsize=8)
    return figure


def choose_images(
    subject: Subject, wanted: Sequence[int], count: int, batch_size: int, most: int | None = None
) -> tuple[list[UInt8[np.ndarray, "height width c"]], list[int]]:
    """Returns the first images of the wanted classes, as evenly as possible, and their labels.

    Raises:
        UserError: if these classes have no images.
    """
    share = -(-count // len(wanted))  # images per class; `others` fill in for classes with fewer
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
        raise UserError("there are no images of these classes; choose others with --classes")
    return [image for image, _ in chosen], [label for _, label in chosen]


def main(argv: list[str]) -> None:
    """Draws the class activation maps of several networks side by side."""
    options = flags.FLAGS
    output = output_path("heatmaps.png")
    columns, scores, shown = [], [], ([], [])
    with busy("computing the maps"):
        subjects = subjects_of_flags()
        names = subjects[0].class_names
        wanted = subjects[0].classes(options.classes) or range(len(names))
        for subject in subjects:
            images, labels = choose_images(
                subject, wanted, options.count, options.batch_size, options.max_images
            )
            if not columns:
                shown = images, labels
            if (subject.class_names, labels) != (names, shown[1]):
                raise UserError(
                    f"{subject.name} and {subjects[0].name} have different images; compare "
                    "networks on the same data set"
                )
            maps, logits = class_activation_maps(
                subject.model,
                subject.variables,
                subject.normalize(np.stack(images)),
                None if options.predicted else np.array(labels),
            )
            shares = 100 * np.asarray(jax.nn.softmax(logits, axis=-1)).max(-1)
            said = logits.argmax(-1)
            lines = [f"{names[k]}, {share:.0f}%" for k, share in zip(said, shares, strict=True)]
            columns.append((subject.name, images, maps, lines, (said == labels).tolist()))
            scores.append(f"{subject.name}: {np.sum(said == labels)} of {len(labels)} correct")
    print("\n".join(scores))
    if len(shown[1]) < options.count:
        print(f"these classes have only {len(shown[1])} images")
    figure = draw_heatmaps(shown[0], [names[label] for label in shown[1]], columns)
    save_figure(figure, output, subjects[0])
    of = "each network's prediction" if options.predicted else "the true class"
    print(f"class activation maps of {of}:\n{output}")


def _define_flags() -> None:
    define_flags()
    flags.DEFINE_list("classes", [], "Names or numbers of the classes to show; by default all.")
    flags.DEFINE_integer("count", 5, "Number of images.", 1)
    flags.DEFINE_bool("predicted", False, "Draw maps of the predicted class, not the true one.")
    define_output("heatmaps.png")


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
