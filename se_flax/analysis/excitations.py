"""SE gates by class, as in figures 6 and 7 of the SE paper (arXiv:1709.01507).

python -m se_flax.analysis.excitations --workdir=runs/quickstart --classes=0,1,8
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, Int

from se_flax.analysis.figures import COLOURS, pyplot
from se_flax.analysis.subject import (
    define_flags,
    define_output,
    limited,
    normalized,
    output_path,
    save_figure,
    subjects_of_flags,
)
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.runtime.status import busy


@dataclasses.dataclass(frozen=True)
class Excitations:
    """Statistics of one SE block's gates, for each of k - 1 classes and for all images.

    A block that has a gate for each position (`squeeze="none"`) is represented by their mean.

    Attributes:
        mean: [k, c], mean of each channel's gate over the images of each class; the last row is
            over all images.
        std: [k, c], the standard deviation (divided by n, not n - 1), likewise.
    """

    mean: Float[np.ndarray, "k c"]
    std: Float[np.ndarray, "k c"]


def excitations_by_class(
    model: nn.Module,
    variables: dict[str, Any],
    batches: Iterable[tuple[Float[Array, "_ h w c"], Int[np.ndarray, " _"]]],
    classes: Sequence[int],
) -> dict[str, Excitations]:
    """Returns statistics of the gates of each SE block by class.

    Args:
        model: the network.
        variables: its variables.
        batches: batches of normalised images [b, h, w, 3] and labels [b].
        classes: numbers of the classes to report.

    Returns:
        Excitations by name of the block, in the order of the network.

    Raises:
        UserError: if the network has no SE blocks, or one of the classes has no images.
    """

    # jit sorts the keys of a returned dictionary, so the names are recorded separately.
    names: list[str] = []

    @jax.jit
    def gates_of(variables, images):
        _, sown = model.apply(variables, images, train=False, mutable=["intermediates"])
        flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(
            sown.get("intermediates", {})
        )
        gates = {"/".join(path[:-1]): x[0] for path, x in flat.items() if path[-1] == "excitation"}
        names[:] = gates
        return [jnp.mean(x, axis=range(1, x.ndim - 1), dtype=jnp.float32) for x in gates.values()]

    counts = np.zeros(len(classes) + 1)
    moments: list[np.ndarray] = []
    for images, labels in batches:
        gates = [np.asarray(gate, np.float64) for gate in gates_of(variables, images)]
        if not gates:
            raise UserError("the network has no SE blocks; choose one that has")
        masks = np.stack([*(np.asarray(labels) == k for k in classes), np.ones(len(labels), bool)])
        counts += masks.sum(1)
        sums = [np.stack([masks @ gate, masks @ gate**2]) for gate in gates]
        moments = [a + b for a, b in zip(moments, sums, strict=True)] if moments else sums
    for k, count in zip(classes, counts[:-1], strict=True):
        if not count:
            raise UserError(f"there are no images of class {k}; choose a class that has some")
    if not moments:
        raise UserError("there are no images to evaluate; choose a split or folder that has some")
    result = {}
    for name, (sums, squares) in zip(names, moments, strict=True):
        mean = sums / counts[:, None]
        variance = np.maximum(squares / counts[:, None] - mean**2, 0)
        result[name] = Excitations(mean, np.sqrt(variance))
    return result


def draw_excitations(
    excitations: dict[str, Excitations], labels: Sequence[str], title: str, bands: bool = False
):
    """Returns a figure with a panel per block and, in it, a curve over the channels per class.

    Args:
        excitations: statistics by name of the block.
        labels: names of the classes for the legend. The curve for all images is black.
        title: title of the figure.
        bands: whether to shade one standard deviation around each curve, as in figure 7 of the
            paper.
    """
    columns = min(3, len(excitations))
    rows = -(-len(excitations) // columns)
    figure, axes = pyplot().subplots(
        rows, columns, figsize=(4.2 * columns, 2.3 * rows + 0.8), sharey=True, squeeze=False
    )
    colors = [*(COLOURS[i % len(COLOURS)] for i in range(len(labels))), "#000000"]
    for axis, (name, block) in zip(axes.flat, excitations.items(), strict=False):
        channels = np.arange(block.mean.shape[1])
        for label, color, mean, std in zip(
            (*labels, "all"), colors, block.mean, block.std, strict=True
        ):
            axis.plot(channels, mean, color=color, label=label, linewidth=0.9)
            if bands:
                axis.fill_between(
                    channels, mean - std, mean + std, color=color, alpha=0.15, linewidth=0
                )
        axis.set_title(name, fontsize=9)
        axis.margins(x=0.01)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(excitations) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("excitation")
    for column in range(columns):
        last = max(i for i in range(len(excitations)) if i % columns == column)
        axes.flat[last].set_xlabel("channel")
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=min(6, len(names)), frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.35 / (2.3 * rows + 0.8), 1, 1))
    return figure


def main(argv: list[str]) -> None:
    """Draws the excitations of one network and writes the numbers to a JSON file."""
    options = flags.FLAGS
    output = output_path("excitations.png")
    with busy("computing the gates"):
        (subject,) = subjects_of_flags(most=1)
        if options.classes:
            classes = subject.classes(options.classes)
        else:
            batches = limited(subject.batches(options.batch_size), options.max_images)
            classes = sorted({int(k) for _, labels in batches for k in labels})[:4]
        batches = normalized(subject, options.batch_size, options.max_images)
        excitations = excitations_by_class(subject.model, subject.variables, batches, classes)
    names = [subject.class_names[k] for k in classes]
    labels = [f"class {name}" if name.isdigit() else name for name in names]
    title = f"Excitations of {subject.name} on {subject.images}"
    figure = draw_excitations(excitations, labels, title, options.bands)
    save_figure(figure, output, subject)
    numbers = {
        "network": subject.name,
        "classes": [*names, "all"],
        "blocks": {
            name: {"mean": block.mean.round(5).tolist(), "std": block.std.round(5).tolist()}
            for name, block in excitations.items()
        },
    }
    output.with_suffix(".json").write_text(json.dumps(numbers) + "\n")
    width = max(len("gates of"), *map(len, excitations)) + 2
    print(f"{'gates of':<{width}}  mean  standard deviation between")
    print(f"{'':<{width}}        channels  classes")
    for name, block in excitations.items():
        mean, between = block.mean[-1], block.mean[:-1].std(axis=0).mean()
        print(f"{name:<{width}}{mean.mean():6.3f}{mean.std():10.3f}{between:9.3f}")
    print(f"figure: {output}\nnumbers: {output.with_suffix('.json')}")


def _define_flags() -> None:
    define_flags()
    flags.DEFINE_list(
        "classes", [], "Names or numbers of classes; by default the first four with images."
    )
    flags.DEFINE_bool("bands", False, "Shade one standard deviation around each curve.")
    define_output("excitations.png", "the numbers go to a .json of the same name")


if __name__ == "__main__":
    _define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
