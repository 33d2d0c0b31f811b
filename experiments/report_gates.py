"""The section of the report on the gates of trained networks (`experiments.gates`)."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.compare import Interval
from experiments.gates import ALL_STAGES, FIGURE, FILE
from experiments.report_figures import PALETTE, save_png
from se_flax.analysis import figures
from se_flax.runtime.paths import Path

INTRODUCTION = """\
Do the gates depend on the image, and does the network need that? The paper finds that the gates of
its last two blocks are nearly the same for all classes, and that the last stage's blocks can be
left out at a small cost (arXiv:1709.01507, section 7.2). Here a trained network keeps its weights,
but the gates of a stage are replaced by their means over the test images, and so no longer depend
on the image. Networks with seed 0 on {dataset}, {images:,} images, made by
`python -m experiments.gates`; the intervals (95%) are over the test images, not over seeds. The
networks were evaluated again for it, on another device than in training, so an image may be counted
differently.\
"""

CLASSES = "Mean gates by class, as in figure 6 of the paper."
DEAD = 1e-4  # a standard deviation of gates below it was rounded to 0


def gates_section(out: Path) -> list[str]:
    """Returns the lines on the gates, and draws the figures; nothing if they were not measured."""
    path = out / FILE
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    networks = found["networks"]
    lines = ["## Inside the gates", ""]
    lines += [INTRODUCTION.format(dataset=found["dataset"], images=networks[0]["images"]), ""]
    lines += replacement_lines(networks)
    (shown,) = (each for each in networks if (each["study"], each["cell"]) == FIGURE)
    for name, text, draw in (
        ("gates_depth", depth_sentence(shown), lambda to: draw_depth(shown["blocks"], to)),
        ("gates_classes", CLASSES, lambda to: draw_gates(found["by_channel"], to)),
    ):
        draw(out / "figures" / f"{name}.png")
        lines += ["", text, "", f"![{shown['label']}: {name}](figures/{name}.png)"]
    return [*lines, ""]


def replacement_lines(networks: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the table of what constant gates change, and a sentence on the first network."""
    stages = sorted({stage for each in networks for stage in each["replaced"]} - {ALL_STAGES})
    columns = [*stages, ALL_STAGES]
    head = " | ".join(f"constant in {column}" for column in columns)
    lines = [replacement_sentence(networks[0]), ""]
    lines += [f"| study | network | blocks the same for all images | top-1, % | {head} |"]
    lines += ["|---" * (4 + len(columns)) + "|"]
    for each in networks:
        cells = [_change(each["replaced"].get(column)) for column in columns]
        dead = f"{len(constant_blocks(each))} of {len(each['blocks'])}"
        about = f"| {each['study']} | {each['label']} | {dead} | {each['top1']:.2f} |"
        lines.append(f"{about} {' | '.join(cells)} |")
    return lines


def _interval(change: dict[str, float]) -> Interval:
    return Interval(change["mean"], change["low"], change["high"])


def _change(change: dict[str, float] | None) -> str:
    if change is None:
        return "-"
    text = f"{change['mean']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"
    return f"{text}, within the noise" if _interval(change).within_noise else text


def replacement_sentence(network: dict[str, Any]) -> str:
    """Returns in which stages a network needs gates that depend on the image."""
    changes = {stage: v for stage, v in network["replaced"].items() if stage != ALL_STAGES}
    needed = [stage for stage, change in changes.items() if not _interval(change).within_noise]
    text = f"{network['label']}: constant gates in {' or '.join(needed) or 'any single stage'} "
    text += "change its top-1" if needed else "do not change its top-1 beyond the noise"
    if rest := [stage for stage in changes if needed and stage not in needed]:
        text += f"; what they change in {' or '.join(rest)} is within the noise"
    if whole := network["replaced"].get(ALL_STAGES):
        text += f". In all stages at once: {_change(whole)} points"
    return f"{text}."


def depth_sentence(network: dict[str, Any]) -> str:
    """Returns in which blocks the gates differ most and least, and which are constant."""
    blocks = {block["block"]: block for block in network["blocks"]}
    constant = constant_blocks(network)
    alive = [name for name in blocks if name not in constant]
    text = f"{network['label']}, block by block."
    if alive:
        most = max(alive, key=lambda name: blocks[name]["between_images"])
        last = list(blocks)[-1]
        text += f" The gates differ most between images in {_deviations(blocks[most])}"
        text += f"; those of the last block, in {_deviations(blocks[last])}."
    if constant:
        text += (
            f" In {', '.join(f'`{name}`' for name in constant)} they are the same for all images: "
            "the ReLU of their bottleneck is 0 for all."
        )
    return text


def constant_blocks(network: dict[str, Any]) -> list[str]:
    """Returns the blocks whose gates are the same for all images."""
    return [block["block"] for block in network["blocks"] if block["between_images"] < DEAD]


def _deviations(block: dict[str, Any]) -> str:
    return (
        f"`{block['block']}` (standard deviation {block['between_images']:.3f} between images, and "
        f"{block['between_classes']:.3f} between the means of classes)"
    )


def draw_depth(blocks: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws how much the gates differ between channels, images and classes, block by block."""
    pyplot = figures.pyplot()
    figure, axis = pyplot.subplots(figsize=(7, 3.2))
    names = [block["block"].removesuffix("/se").replace("_", "\n") for block in blocks]
    for key, marker, colour, label in (
        ("mean", "o", "#000000", "mean gate"),
        ("between_channels", "s", PALETTE[0], "deviation between channels"),
        ("between_images", "^", PALETTE[1], "deviation between images"),
        ("between_classes", "D", PALETTE[2], "deviation between classes"),
    ):
        values = [block[key] for block in blocks]
        axis.plot(names, values, marker=marker, color=colour, label=label, linewidth=1.3)
    axis.set_ylim(0, None)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(alpha=0.25)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
    save_png(figure, path)


def draw_gates(gates: dict[str, Any], path: Path) -> None:
    """Draws the mean gates of each class over the channels, with a panel for each block."""
    pyplot = figures.pyplot()
    columns = max(1, -(-len(gates["blocks"]) // 3))
    figure, axes = pyplot.subplots(
        3, columns, figsize=(2.9 * columns, 6), sharey=True, squeeze=False, layout="constrained"
    )
    colours = pyplot.get_cmap("tab10").colors
    for axis in axes.flat[len(gates["blocks"]) :]:
        axis.set_visible(False)
    for axis, (name, block) in zip(axes.flat, gates["blocks"].items(), strict=False):
        mean = np.array(block["mean"])
        order = np.argsort(mean[-1])
        for place, label in enumerate(gates["classes"]):
            is_all = place == len(gates["classes"]) - 1
            style = {"color": "#000000", "linewidth": 2} if is_all else {"linewidth": 0.9}
            style.setdefault("color", colours[place % len(colours)])
            axis.plot(mean[place][order], label=label, **style)
        axis.set_title(name.removesuffix("/se"), fontsize=9)
        axis.grid(alpha=0.25)
    figure.supxlabel("channel, ordered by the mean gate of all images", fontsize=9)
    figure.supylabel("mean gate", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    save_png(figure, path)
