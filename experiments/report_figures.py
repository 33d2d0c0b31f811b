"""The figures of the report."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.compare import Interval, top1_of
from experiments.study import Cell, Study
from se_flax.analysis import figures
from se_flax.runtime.paths import Path
from se_flax.runtime.storage import make_folder

PALETTE = (*figures.COLOURS, "#000000", "#999999", "#882255")
NETWORKS = {
    "ResNet-20": "#0072B2",
    "ResNet-8": "#0072B2",
    "ResNet-56": "#D55E00",
    "ResNet-110": "#009E73",
    "ResNet-110 with pre-activation": "#F0E442",
    "ResNet-164 with pre-activation": "#882255",
    "ResNeXt-29": "#CC79A7",
    "Inception-v3": "#E69F00",
    "Small CNN": "#56B4E9",
    "ResNet-18": "#000000",
    "ResNet-34": "#999999",
    "ResNet-50": "#7A4B00",
}
AUGMENTED = {"ResNet-18": "#0072B2", "ResNet-34": "#D55E00", "ResNet-50": "#E69F00"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")


@dataclasses.dataclass(frozen=True)
class ForestRow:
    """A row of `draw_forest`: a network's difference from the plain one.

    Attributes:
        group: title of its study.
        label: label of the network.
        seeds: difference of each seed.
        change: their mean and its interval.
        mixed: number of seeds for which the two were trained with different revisions.
    """

    group: str
    label: str
    seeds: Sequence[float]
    change: Interval
    mixed: int = 0


def _pyplot():
    pyplot = figures.pyplot()
    pyplot.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    return pyplot


def _style(study: Study, cell: Cell) -> dict[str, Any]:
    """Returns a cell's colour and line style; each network and each variant has its own colour."""
    dash = "--" if cell.baseline is None else "-"
    network, _, how = cell.label.removeprefix("SE-").partition(", ")
    if how == "augmented":
        return {"color": AUGMENTED[network], "linestyle": dash}
    if network in NETWORKS:
        return {"color": NETWORKS[network], "linestyle": dash}
    labels = list(dict.fromkeys(each.label for each in study.cells("full")))
    return {"color": PALETTE[labels.index(cell.label) % len(PALETTE)], "linestyle": dash}


def draw_curves(study: Study, cells: Sequence[Cell], results: dict[str, Any], path) -> bool:
    """Draws training loss and accuracy by epoch, with a band from lowest to highest seed."""
    shown = [cell for cell in cells if results[cell.name]]
    if not shown:
        return False
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for axis, name in zip(axes, ("train_loss", "top1"), strict=True):
        for cell in shown:
            curves = [each["curve"] for each in results[cell.name]["results"]]
            values = np.array([curve[name] for curve in curves])
            steps = np.array(curves[0]["step"])
            epochs = steps * cell.config.num_epochs / steps[-1]
            style = _style(study, cell)
            axis.plot(epochs, values.mean(0), label=cell.label, linewidth=1.4, **style)
            axis.fill_between(
                epochs, values.min(0), values.max(0), color=style["color"], alpha=0.12, linewidth=0
            )
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("training loss (epoch's end), nats")
    axes[1].set_ylabel("top-1 on test images, %")
    axes[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    save_png(figure, path)
    return True


def draw_chart(study: Study, cells: Sequence[Cell], results: dict[str, Any], path) -> bool:
    """Draws accuracy over what the study varies, over network size, or by row of the table."""
    shown = [cell for cell in cells if results[cell.name]]
    if study.x_label:
        return _draw_over_x(study, shown, results, path)
    if len(shown) < 2:
        return False
    draw = _draw_over_size if study.over_size else _draw_by_row
    draw(study, shown, results, path)
    return True


def _draw_by_row(study: Study, shown: Sequence[Cell], results: dict[str, Any], path) -> None:
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6, 0.8 + 0.36 * len(shown)))
    for place, cell in enumerate(shown):
        accuracies = list(top1_of(results[cell.name]).values())
        color = _style(study, cell)["color"]
        deviation = np.std(accuracies, ddof=1) if len(accuracies) > 1 else None
        filled = {"markerfacecolor": "white" if cell.baseline is None else color}
        axis.errorbar(
            np.mean(accuracies), place, xerr=deviation, fmt="o", color=color, capsize=3, **filled
        )
    axis.set_yticks(range(len(shown)), [cell.label for cell in shown])
    axis.invert_yaxis()
    axis.set_xlabel("top-1 on test images, %, mean and standard deviation")
    axis.grid(alpha=0.25)
    save_png(figure, path)


def _draw_over_size(study: Study, shown: Sequence[Cell], results: dict[str, Any], path) -> None:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    sizes = (("parameters", 1e6, "parameters, millions"),)
    sizes += (("multiply_adds", 1e6, "multiply-adds, millions"),)
    for axis, (name, unit, label) in zip(axes, sizes, strict=True):
        for place, cell in enumerate(shown):
            accuracies = list(top1_of(results[cell.name]).values())
            color = _style(study, cell)["color"]
            axis.errorbar(
                results[cell.name][name] / unit,
                np.mean(accuracies),
                np.std(accuracies, ddof=1) if len(accuracies) > 1 else None,
                marker=MARKERS[place % len(MARKERS)],
                color=color,
                markerfacecolor="white" if cell.baseline is None else color,
                linestyle="none",
                capsize=3,
                label=cell.label,
            )
        values = [results[cell.name][name] for cell in shown]
        if max(values) > 10 * min(values):
            axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.margins(x=0.15)
        # Otherwise the small cost of a block would fill the whole width.
        if max(values) < 1.5 * min(values):
            axis.set_xlim(0.5 * min(values) / unit, 1.5 * max(values) / unit)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("top-1 on test images, %")
    axes[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    save_png(figure, path)


def _draw_over_x(study: Study, shown: Sequence[Cell], results: dict[str, Any], path) -> bool:
    placed = [cell for cell in shown if cell.x is not None]
    if not placed:
        return False
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(5, 3.4))
    accuracies = [list(top1_of(results[cell.name]).values()) for cell in placed]
    axis.errorbar(
        range(len(placed)),
        [np.mean(each) for each in accuracies],
        [np.std(each, ddof=1) if len(each) > 1 else 0 for each in accuracies],
        marker="o",
        capsize=3,
        color=PALETTE[0],
        label="with SE",
    )
    for cell in shown:
        if cell.x is None:
            mean = np.mean(list(top1_of(results[cell.name]).values()))
            style = ":" if cell.baseline else "--"
            axis.axhline(mean, color="#000000", linestyle=style, linewidth=1, label=cell.label)
    axis.set_xticks(range(len(placed)), [f"{cell.x:g}" for cell in placed])
    axis.set_xlabel(study.x_label)
    axis.set_ylabel("top-1 on test images, %")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    save_png(figure, path)
    return True


def draw_latency(cells: Sequence[Any], results: Sequence[Any], path: Path) -> bool:
    """Draws the time per image over the batch size; returns whether there are any results."""
    if not any(results):
        return False
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6, 3.6))
    series: dict[tuple[str, int], list[Any]] = {}
    for cell, result in zip(cells, results, strict=True):
        if result:
            series.setdefault((cell.title, cell.image_size), []).append((cell.batch_size, result))
    for place, ((title, size), points) in enumerate(series.items()):
        for name, line, prefix in (("plain", "--", ""), ("se", "-", "SE-")):
            axis.plot(
                [batch for batch, _ in points],
                [np.median(result[name]) / batch for batch, result in points],
                color=NETWORKS[title],
                linestyle=line,
                marker=MARKERS[place],
                markerfacecolor="white" if name == "plain" else NETWORKS[title],
                label=f"{prefix}{title}, {size} pixels",
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("batch size")
    axis.set_ylabel("ms per image")
    axis.grid(alpha=0.25)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    save_png(figure, path)
    return True


def draw_forest(rows: Sequence[ForestRow], path: Path) -> bool:
    """Draws a forest plot: the differences from the plain network with their intervals.

    Returns whether an interval is longer than the axis.

    A filled marker is a mean with an interval, a hollow one has none, and the ticks are the seeds.
    The axis covers the seeds, and the intervals of at least three; longer intervals end in an
    arrow. The dotted line is the mean of the first row.
    """
    pyplot = _pyplot()
    groups = list(dict.fromkeys(row.group for row in rows))
    low, high = _forest_limits(rows)
    figure, axis = pyplot.subplots(figsize=(8.6, 1.1 + 0.23 * (len(rows) + len(groups))))
    beside_axis = axis.get_yaxis_transform()
    place, ticks = 0.0, []
    for i, group in enumerate(groups):
        marker, colour = MARKERS[i % len(MARKERS)], PALETTE[i % len(PALETTE)]
        axis.text(-0.44, place, group, fontweight="bold", va="center", transform=beside_axis)
        for row in (row for row in rows if row.group == group):
            place += 1
            ticks.append((place, row.label))
            _draw_row(axis, row, place, marker, colour, (low, high))
        place += 1.3
    axis.axvline(0, color="#000000", linewidth=1)
    axis.axvline(rows[0].change.mean, color="#000000", linewidth=1, linestyle=":")
    axis.set_xlim(low, high)
    axis.set_ylim(place - 0.7, -0.7)
    axis.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("top-1 minus that of the plain network with the same seed, points")
    axis.grid(alpha=0.25)
    axis.spines["left"].set_visible(False)
    save_png(figure, path, dpi=115)
    shown = [row.change for row in rows if row.change.has_interval]
    return any(change.low < low or change.high > high for change in shown)


def _forest_limits(rows: Sequence[ForestRow]) -> tuple[float, float]:
    shown = [0.0, *(seed for row in rows for seed in row.seeds)]
    for row in rows:
        if row.change.has_interval and row.change.n > 2:
            shown += [row.change.low, row.change.high]
    margin = 0.12 * max(max(shown) - min(shown), 0.5)
    return min(shown) - margin, max(shown) + margin


def _draw_row(axis, row: ForestRow, place: float, marker: str, colour: str, limits) -> None:
    low, high = limits
    if row.change.has_interval:
        ends = max(row.change.low, low), min(row.change.high, high)
        axis.plot(ends, (place, place), color=colour, linewidth=1.6, solid_capstyle="butt")
        for end, arrow, cut in (
            (ends[0], "<", row.change.low < low),
            (ends[1], ">", row.change.high > high),
        ):
            style = {"marker": arrow, "markersize": 5} if cut else {"marker": "|", "markersize": 8}
            axis.plot(end, place, color=colour, clip_on=False, **style)
    axis.plot(row.seeds, [place] * len(row.seeds), "|", color="#000000", markersize=5, alpha=0.6)
    face = colour if row.change.has_interval else "white"
    axis.plot(
        row.change.mean, place, marker, color=colour, markerfacecolor=face, markersize=6, zorder=3
    )


def save_png(figure, path: Path, dpi: int = 100) -> None:
    """Writes a figure as a PNG file with a palette, which has a third of the size."""
    png = io.BytesIO()
    # Without matplotlib's time and version, equal results give equal files.
    figure.savefig(png, dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    small = io.BytesIO()
    palette = Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True)
    make_folder(path.parent)
    path.write_bytes(small.getvalue())
    _pyplot().close(figure)
