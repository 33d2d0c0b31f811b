"""Prints and draws the confusion matrix of a network.

python -m se_flax.analysis.confusion --workdir=runs/quickstart
"""

import json
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, Int

from se_flax.analysis.figures import pyplot
from se_flax.analysis.subject import (
    define_flags,
    define_output,
    normalized,
    output_path,
    save_figure,
    subjects_of_flags,
)
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.runtime.status import busy
from se_flax.runtime.terminal import fitted


def confusion_matrix(
    model: nn.Module,
    variables: dict[str, Any],
    batches: Iterable[tuple[Float[Array, "_ h w c"], Int[np.ndarray, " _"]]],
    num_classes: int,
) -> Int[np.ndarray, "num_classes num_classes"]:
    """Returns the number of images by true class (rows) and predicted class (columns).

    Args:
        model: the network.
        variables: its variables.
        batches: batches of normalised images [b, h, w, c] and labels [b].
        num_classes: number of classes.

    Raises:
        UserError: if there are no images.
    """
    says = jax.jit(lambda v, x: jnp.argmax(model.apply(v, x, train=False), axis=-1))
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for images, labels in batches:
        np.add.at(matrix, (np.asarray(labels), np.asarray(says(variables, images))), 1)
    if not matrix.any():
        raise UserError("there are no images to evaluate; choose a split or folder that has some")
    return matrix


def per_class_accuracy(matrix: Int[np.ndarray, "c c"]) -> Float[np.ndarray, " c"]:
    """Returns the accuracy on each class in percent; NaN for a class without images."""
    counts = matrix.sum(1)
    return 100 * np.diag(matrix) / np.where(counts, counts, np.nan)


def most_confused(matrix: Int[np.ndarray, "c c"], count: int) -> list[tuple[int, int, int]]:
    """Returns (true class, predicted class, number of images) for the most confused pairs."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    places = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(place, wrong.shape) for place in places]
    return [(int(a), int(b), int(wrong[a, b])) for a, b in pairs if wrong[a, b]]


def draw_confusion(matrix: Int[np.ndarray, "c c"], names: tuple[str, ...], title: str):
    """Returns a figure of the matrix; each row is in percent of the images of its class."""
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = len(names)
    side = min(12.0, 3.0 + 0.42 * size)
    figure, axis = pyplot().subplots(figsize=(side + 0.8, side))
    drawn = axis.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    figure.colorbar(drawn, label="% of the images of a class", fraction=0.046)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.set_title(textwrap.fill(title, 60), fontsize=10)
    if size <= 30:
        turned = {"rotation": 60, "ha": "right"} if max(map(len, names)) > 3 else {}
        axis.set_xticks(range(size), names, **turned)
        axis.set_yticks(range(size), names)
        for i, j in np.ndindex(size, size) if size <= 12 else ():
            color = "black" if shares[i, j] > 50 else "white"
            axis.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", color=color, size=8)
    figure.tight_layout()
    return figure


def main(argv: list[str]) -> None:
    """Prints the accuracy on each class and the most confused pairs, and draws the matrix."""
    options = flags.FLAGS
    output = output_path("confusion.png")
    with busy("evaluating"):
        (subject,) = subjects_of_flags(most=1)
        batches = normalized(subject, options.batch_size, options.max_images)
        names = subject.class_names
        matrix = confusion_matrix(subject.model, subject.variables, batches, len(names))
    accuracy, counts = per_class_accuracy(matrix), matrix.sum(1)
    title = (
        f"{subject.name} on {subject.images}: "
        f"top-1 {100 * np.trace(matrix) / matrix.sum():.2f}% of {matrix.sum():,} images"
    )
    print(fitted(title, sys.stdout))
    for k in np.argsort(accuracy):
        if counts[k]:
            print(f"  {names[k]:<24}{accuracy[k]:7.2f}%  of {counts[k]:,}")
    print("most confused:")
    for k, other, count in most_confused(matrix, options.pairs):
        print(f"  {names[k]} predicted as {names[other]}: {count} ({100 * count / counts[k]:.1f}%)")
    save_figure(draw_confusion(matrix, names, title), output, subject)
    numbers = {
        "network": subject.name,
        "images": subject.images,
        "classes": list(names),
        "matrix": matrix.tolist(),
        "accuracy": [None if np.isnan(x) else round(x, 4) for x in accuracy.tolist()],
    }
    output.with_suffix(".json").write_text(json.dumps(numbers) + "\n")
    print(f"figure: {output}\nnumbers: {output.with_suffix('.json')}")


def _define_flags() -> None:
    define_flags()
    flags.DEFINE_integer("pairs", 10, "Number of confused pairs to print.", 0)
    define_output("confusion.png", "the numbers go to a .json of the same name")


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
