"""The summary at the top of the report: a few sentences and one figure, made from the results."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from experiments.backbones import REPRODUCTION
from experiments.compare import (
    Interval,
    noise_text,
    paired_difference,
    results_of,
    revisions_of,
    top1_of,
)
from experiments.published import change_of, published_rows
from experiments.report_figures import ForestRow, draw_forest
from experiments.study import Cell, Study
from se_flax.runtime.paths import Path

SCALE = "budget"
FIGURE = "summary.png"

INTRODUCTION = """\
Differences in top-1 on the test images of CIFAR-10, in points, after {epochs}: the mean over seeds
of the difference between two networks with the same seed, and in brackets its 95% interval. "Within
the noise" means that the interval contains 0.\
"""
WIDE = "No network has more than two seeds yet, which makes the intervals very wide."
CAPTION = """\
Each network with SE or another block, compared with the plain network. Ticks are the seeds. The
dotted line is {first}. A network that appears in several studies is drawn once.\
"""
CAVEATS = """\
What the intervals do not show:

- With three seeds, the length of an interval is largely chance. A network whose interval excludes 0
  need not be better than one whose interval contains it.
- {comparisons}
- Best and worst were picked after the fact, so the interval of the difference between them is too
  narrow.
- They cover the variation between runs, not between test sets.
- A GPU does not repeat a run to the bit
  ([runs that were trained again](#runs-that-were-trained-again)), so two networks with the same
  seed share little more than the order of their images.\
"""
HOLLOW = "Hollow markers have no interval: there is one seed, or all seeds differ by the same."
CUT = "Arrows mark intervals that are longer than the axis."


@dataclasses.dataclass(frozen=True)
class Compared:
    """A study's cells of a scale that have results, each compared with the plain network.

    Attributes:
        study: the study.
        cells: its cells by name.
        top1: top-1 accuracy of each cell by seed.
        revisions: revision of the code of each cell by seed.
    """

    study: Study
    cells: dict[str, Cell]
    top1: dict[str, dict[int, float]]
    revisions: dict[str, dict[int, str]]

    @classmethod
    def of(cls, study: Study, out: Path) -> "Compared":
        """Reads the results of a study."""
        results = results_of(study, SCALE, out)
        cells = {cell.name: cell for cell in study.cells(SCALE) if results[cell.name]}
        top1 = {name: top1_of(results[name]) for name in cells}
        return cls(study, cells, top1, {name: revisions_of(results[name]) for name in cells})

    def difference(self, name: str, other: str | None) -> Interval | None:
        """Returns the difference between two cells; None if they share no seed."""
        return paired_difference(self.top1.get(name, {}), self.top1.get(other or "", {}))

    def mixed(self, name: str, other: str) -> int:
        """Returns how many seeds of two cells were trained with different revisions."""
        ours, theirs = self.revisions[name], self.revisions[other]
        return sum(ours[seed] != theirs[seed] for seed in ours.keys() & theirs.keys())

    def changes(self) -> dict[str, Interval]:
        """Returns the difference from the plain network of each cell with SE blocks."""
        changes = {name: self.difference(name, cell.baseline) for name, cell in self.cells.items()}
        return {name: each for name, each in changes.items() if each is not None}


def amount(difference: Interval) -> str:
    """Returns a difference as text, with its interval."""
    text = f"{difference.mean:+.2f}"
    if difference.n == 1:
        return f"{text} (one seed)"
    if not difference.has_interval:
        return f"{text} (the same for all {difference.n} seeds)"
    return f"{text} [{difference.low:+.2f}, {difference.high:+.2f}]"


def verdict(what: str, network: str, difference: Interval) -> str:
    """Returns the sentence that says what something changes in a network."""
    did = "raises" if difference.mean > 0 else "does not raise"
    if not difference.has_interval:
        text = f"as far as can be told without an interval, {what} {did} the top-1 of {network}"
    elif difference.within_noise:
        text = f"what {what} changes in {network} is within the noise"
    else:
        did = "raises" if difference.mean > 0 else "lowers"
        text = f"{what} {did} the top-1 of {network}"
    return f"{text[0].upper()}{text[1:]}: {amount(difference)}."


def plain_against_se(compared: Compared) -> list[str]:
    """Returns what SE changes in each network, and what was published on the same network."""
    sentences = []
    for name, change in compared.changes().items():
        cell = compared.cells[name]
        plain = compared.cells[str(cell.baseline)].label
        sentences.append(verdict("SE", plain, change))
        helped = not change.within_noise and change.mean > 0
        for key in cell.published:
            if key[0] == REPRODUCTION:
                sentences += [_published(row, plain, helped) for row in published_rows()[key]]
    return sentences


def _published(row: dict[str, str], network: str, helped: bool) -> str:
    """Returns what a published row says, and whether it agrees with ours."""
    if change_of(row) > 0:
        says = "A public reproduction shows a gain" + (", too" if helped else "")
    else:
        says = "A public reproduction shows no gain" + ("" if helped else ", either")
    link = row["source"].partition(",")[0]
    return (
        f"{says}: {row['se']}% error of SE-{network}, {row['baseline']}% without SE, after a long "
        f"training ({link})."
    )


def extremes(standard: str) -> Callable[[Compared], list[str]]:
    """Returns a function that compares a study's best network with its worst.

    Args:
        standard: name of the cell with the standard block, to name with them.
    """

    def sentences(compared: Compared) -> list[str]:
        changes = compared.changes()
        if len(changes) < 2:
            return []
        named = {name: f"{compared.cells[name].label}, {amount(changes[name])}" for name in changes}
        best = max(changes, key=lambda name: changes[name].mean)
        worst = min(changes, key=lambda name: changes[name].mean)
        said = [f"Best compared with the plain network: {named[best]}; worst: {named[worst]}."]
        if between := compared.difference(best, worst):
            noise = "is within the noise: " if between.within_noise and between.has_interval else ""
            fewer = between.n < max(changes[best].n, changes[worst].n)
            paired = ", with the seeds that both have" if fewer else ""
            said.append(f"The difference between them {noise or 'is '}{amount(between)}{paired}.")
        if standard in changes and standard not in (best, worst):
            usual = f"The usual block: {named[standard]}"
            if over := compared.difference(best, standard):
                usual += f"; the best compared with it: {amount(over)}{noise_text(over)}"
            said.append(f"{usual}.")
        return [*said, _beyond_the_noise(compared, changes)]

    return sentences


def _beyond_the_noise(compared: Compared, changes: dict[str, Interval]) -> str:
    """Returns which networks have intervals that exclude 0."""
    labels = [compared.cells[name].label for name in changes if not changes[name].within_noise]
    if not labels:
        return "All intervals of differences from the plain network contain 0."
    if len(labels) == len(changes):
        return "All intervals of differences from the plain network exclude 0."
    return f"Intervals that exclude 0: {', '.join(labels)}."


def one_against_other(name: str, what: str, other: str) -> Callable[[Compared], list[str]]:
    """Returns a function that compares a cell of a study with another and with the plain network.

    Args:
        name: name of the cell.
        what: what the cell has, as the beginning of a sentence.
        other: name of the cell that it is compared with.
    """

    def sentences(compared: Compared) -> list[str]:
        said = [
            f"{amount(difference)} compared with {network}{noise_text(difference)}"
            for network, cell in (("SE-ResNet-20", other), ("the plain network", "plain"))
            if (difference := compared.difference(name, cell))
        ]
        return [f"{what}: {'; '.join(said)}."] if said else []

    return sentences


SAID: dict[str, Callable[[Compared], list[str]]] = {
    "backbones": plain_against_se,
    "placement": extremes("standard"),
    "stage": extremes("all"),
    "ratio": extremes("ratio16"),
    "squeeze_operator": one_against_other(
        "maximum", "The maximum instead of the average", "average"
    ),
    "no_squeeze": one_against_other(
        "no_squeeze", "A gate for each position, without the squeeze", "se"
    ),
    "excitation_operator": extremes("sigmoid"),
    "variants": extremes("resnet20_cifar10_standard"),
    "attention": extremes("se"),
}


def forest_rows(everything: Sequence[Compared]) -> list[ForestRow]:
    """Returns the rows of the figure: each network with blocks once, in its first study."""
    rows: list[ForestRow] = []
    drawn: set[str] = set()
    for compared in everything:
        for name, change in compared.changes().items():
            cell = compared.cells[name]
            config: Any = cell.config.to_json_best_effort()
            key = json.dumps(config, sort_keys=True)
            if key not in drawn:
                drawn.add(key)
                ours, plain = compared.top1[name], compared.top1[str(cell.baseline)]
                seeds = [ours[seed] - plain[seed] for seed in sorted(ours.keys() & plain.keys())]
                mixed = compared.mixed(name, str(cell.baseline))
                rows.append(ForestRow(compared.study.title, cell.label, seeds, change, mixed))
    return rows


def comparisons(rows: Sequence[ForestRow]) -> str:
    """Returns how many networks are compared, and what remains if that is corrected for."""
    left = [row.label for row in rows if row.change.p_value * len(rows) < 0.05]
    text = (
        f"{len(rows)} networks are compared, nearly all with the same runs of the plain network, "
        "and the intervals are not corrected for that. After a Bonferroni correction, "
        f"{', '.join(left) or 'none'} would differ from it."
    )
    pairs, mixed = sum(row.change.n for row in rows), sum(row.mixed for row in rows)
    if mixed:
        text += (
            f" In {mixed} of {pairs} pairs, the two networks were trained with different revisions "
            "of the code (see below the tables)."
        )
    return text


def summary_lines(studies: Sequence[Study], out: Path) -> list[str]:
    """Returns the summary, and draws its figure; nothing without results of its scale."""
    everything = [Compared.of(study, out) for study in studies if SCALE in study.scales]
    everything = [compared for compared in everything if compared.changes()]
    rows = forest_rows(everything)
    if not rows:
        return []
    epochs = {cell.config.num_epochs for each in everything for cell in each.cells.values()}
    lengths = " or ".join(map(str, sorted(epochs)))
    lines = ["## What SE did here", "", INTRODUCTION.format(epochs=f"{lengths} epochs"), ""]
    if max(row.change.n for row in rows) == 2:
        lines += [WIDE, ""]
    for compared in everything:
        said = SAID.get(compared.study.name, lambda _: [])(compared)
        if said:
            anchor = f"{compared.study.title}-{SCALE}".lower().replace(" ", "-")
            lines.append(f"- [{compared.study.title}](#{anchor}): {' '.join(said)}")
    has_cut = draw_forest(rows, out / "figures" / FIGURE)
    lines += ["", f"![Difference from the plain network](figures/{FIGURE})", ""]
    caption = [CAPTION.format(first=rows[0].label)]
    caption += [] if all(row.change.has_interval for row in rows) else [HOLLOW]
    lines += [*caption, *([CUT] if has_cut else []), ""]
    return [*lines, CAVEATS.format(comparisons=comparisons(rows)), ""]
