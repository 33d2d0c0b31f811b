"""What others have published, with the cells that it can be compared with."""

import csv
import functools
import pathlib
from collections.abc import Sequence

from experiments.study import Cell

PUBLISHED = pathlib.Path(__file__).with_name("published_results.csv")


@functools.cache
def published_rows() -> dict[tuple[str, str, str], list[dict[str, str]]]:
    """Returns the published results by (study, data set, model)."""
    rows: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["study"], row["dataset"], row["model"]), []).append(row)
    return rows


def value_of(figure: str) -> float:
    """Returns the mean of a published figure, which may be "mean ± standard deviation"."""
    return float(figure.partition("±")[0])


def change_of(row: dict[str, str]) -> float:
    """Returns by how many points SE raises the accuracy in a published row."""
    change = value_of(row["se"]) - value_of(row["baseline"])
    return -change if row["metric"] == "top1_err" else change


def published_cell(cell: Cell) -> str:
    """Returns the published figures to show next to a cell."""
    table, texts = published_rows(), []
    for key in cell.published:
        for row in table[key]:
            if not row["metric"].startswith("top1"):
                continue
            place = f"{row['dataset']}, "
            on_cifar = row["dataset"].startswith("cifar")
            if row["study"].startswith("Course") and on_cifar and "ResNeXt" not in row["model"]:
                place += "a ResNet of its own, "
            elif cell.baseline is not None and row["model"] != cell.label:
                place += f"{row['model']}, "
            error = " error" if row["metric"] == "top1_err" else ""
            if cell.baseline is None:
                figures = f"{row['baseline']}{error}"
            else:
                figures = f"{row['se']}{error}, plain {row['baseline']} ({change_of(row):+.2f})"
            texts.append(f"{figures} ({place}{row['source']})")
    return "; ".join(texts) or "-"


def elsewhere_lines(keys: Sequence[tuple[str, str, str]]) -> list[str]:
    """Returns the section on published networks that no cell trains.

    Args:
        keys: (study, data set, model) of their rows.
    """
    rows = [row for key in keys for row in published_rows()[key]]
    lines = [
        *("## Published results of other networks", ""),
        "Top-1 accuracy in percent, or error where marked; the change is always in accuracy.",
        *("", "| data set | network | without SE | with SE | change | source |", "|---" * 6 + "|"),
    ]
    for row in rows:
        error = " error" if row["metric"] == "top1_err" else ""
        with_se = f"{row['se']}{error} | {change_of(row):+.2f}" if row["se"] else "- | -"
        lines.append(
            f"| {row['dataset']} | {row['model']} | {row['baseline']}{error} | {with_se} | "
            f"{row['source']} |"
        )
    return [*lines, ""]
