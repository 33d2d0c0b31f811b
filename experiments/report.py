"""Turns the results of the studies into a page: python -m experiments.report.

Writes report.md, figures/*.png and report.html, which contains the figures, next to the results.
A summary comes first, then what has been run. One line per table names the cells that have not been
run.
"""

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import markdown
import numpy as np
from absl import app, flags

from experiments import (
    attention,
    backbones,
    detection,
    excitation_operator,
    inference_time,
    no_squeeze,
    placement,
    ratio,
    speed,
    squeeze_operator,
    stage,
    variants,
)
from experiments.compare import (
    difference_text,
    paired_difference,
    results_of,
    spread,
    top1_of,
)
from experiments.published import elsewhere_lines, published_cell, published_rows
from experiments.repeated import repeated_section
from experiments.report_detection import INTRODUCTION as ON_DETECTION
from experiments.report_detection import detection_results, published_text
from experiments.report_detection import table_lines as detection_lines
from experiments.report_figures import draw_chart, draw_curves, draw_latency
from experiments.report_gates import gates_section
from experiments.report_summary import summary_lines
from experiments.study import SCALES, Cell, Study, read_result, result_path
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.runtime.paths import Path, to_path

STUDIES = (
    backbones.STUDY,
    ratio.STUDY,
    stage.STUDY,
    placement.STUDY,
    squeeze_operator.STUDY,
    excitation_operator.STUDY,
    no_squeeze.STUDY,
    variants.STUDY,
    attention.STUDY,
)

INTRODUCTION = """\
Made by `python -m experiments.report` from the files next to this page.
[experiments/README.md](../README.md) has the commands that made those files.

Top-1 is the accuracy on the test images after the last epoch, in percent: the mean and standard
deviation over n seeds. "Difference from plain" is that from the plain network with the same seed,
averaged over the seeds, with its 95% confidence interval (Student's t). An interval that
contains 0 is marked "within the noise"; a single seed has no interval. Published figures come from
papers, and from a course project and a repository, which were not reviewed. They are accuracies in
percent, or errors where marked; the change due to SE is always in accuracy. Their recipes differ
from ours, and often their networks and data sets do, too, so compare only the change due to SE.
Below a table, charts show means and standard deviations; curves are means over the seeds, in a band
from the lowest to the highest.\
"""


def overview(out: Path) -> list[str]:
    """Returns a table that shows how much of each study has been run."""
    lines = ["| study | " + " | ".join(SCALES) + " |", "|---" * (1 + len(SCALES)) + "|"]
    for study in STUDIES:
        counts = []
        for scale in SCALES:
            if scale not in study.scales:
                counts.append("-")
                continue
            results = list(results_of(study, scale, out).values())
            seeds = [len(result["results"]) for result in results if result]
            count = f"{len(seeds)} of {len(results)}"
            if seeds:
                least, most = min(seeds), max(seeds)
                count += f", {least if least == most else f'{least} to {most}'} seeds"
            counts.append(count)
        lines.append(f"| {study.title} | {' | '.join(counts)} |")
    return lines


def study_section(study: Study, out: Path) -> list[str]:
    """Returns the lines of a study, and draws its figures."""
    lines = [f"## {study.title}", "", study.question]
    longest = longest_scale(study, out)
    for scale in filter(study.scales.__contains__, SCALES):
        cells = study.cells(scale)
        if scale == "smoke":  # nothing has been published on these images
            cells = [dataclasses.replace(cell, published=()) for cell in cells]
        results = results_of(study, scale, out)
        if not any(results.values()) and scale != "full":
            continue
        if any(results.values()):
            lines += ["", f"### {study.title}, {scale}", "", _capital(study.scales[scale])]
        for group in dict.fromkeys(cell.group for cell in cells):
            of_group = [cell for cell in cells if cell.group == group]
            missing = [cell for cell in of_group if not results[cell.name]]
            if len(missing) < len(of_group):
                lines += ["", f"**{group}**", "", *table_lines(of_group, results), ""]
            lines += provenance(results[cell.name] for cell in of_group)
            published = {cell.label: published_cell(cell) for cell in missing}
            lines += not_run_lines(f"{scale}, {group}", published)
            if scale == longest and len(missing) < len(of_group):
                lines += figure_lines(study, f"{scale}_{group}", of_group, results, out)
    return [*lines, ""]


def longest_scale(study: Study, out: Path) -> str | None:
    """Returns the longest scale of which a study has results."""
    scales = [scale for scale in SCALES if scale in study.scales]
    return next((s for s in reversed(scales) if any(results_of(study, s, out).values())), None)


def figure_lines(
    study: Study, name: str, cells: Sequence[Cell], results: dict[str, Any], out: Path
) -> list[str]:
    """Draws the figures of a table, and returns the lines that show them."""
    stem, lines = re.sub(r"\W+", "_", f"{study.name}_{name}".lower()), []
    for suffix, draw in (("curves", draw_curves), ("chart", draw_chart)):
        path = out / "figures" / f"{stem}_{suffix}.png"
        if draw(study, cells, results, path):
            lines += ["", f"![{study.title}, {cells[0].group}: {suffix}](figures/{path.name})"]
    return lines


def table_lines(cells: Sequence[Cell], results: dict[str, Any]) -> list[str]:
    """Returns the table of the cells with results."""
    lines = [
        "| network | parameters | multiply-adds, millions | top-1, % | n | loss | "
        "difference from plain | published |",
        "|---" * 8 + "|",
    ]
    for cell in cells:
        result, published = results[cell.name], published_cell(cell)
        if result is None:
            continue
        ours = top1_of(result)
        difference = "-"
        if cell.baseline is not None:
            difference = difference_text(paired_difference(ours, top1_of(results[cell.baseline])))
        losses = [each["final"]["loss"] for each in result["results"]]
        lines.append(
            f"| {cell.label} | {result['parameters']:,} | {result['multiply_adds'] / 1e6:.1f} | "
            f"{spread(ours.values())} | {len(ours)} | {spread(losses, 4)} | {difference} | "
            f"{published} |"
        )
    return lines


def not_run_lines(table: str, published: dict[str, str]) -> list[str]:
    """Returns one line on what a table lacks; it unfolds to the published results.

    Args:
        table: scale and group of the table.
        published: what has been published on each cell without results, by the cell's label.
    """
    names = f"Not run yet ({table}): {', '.join(published)}"
    if set(published.values()) <= {"-"}:
        return ["", names] if published else []
    return [
        "",
        f'<details markdown="1"><summary>{names}; published results</summary>',
        "",
        "| network | published |",
        "|---|---|",
        *(f"| {label} | {figures} |" for label, figures in published.items() if figures != "-"),
        "",
        "</details>",
    ]


def provenance(results: Iterable[dict[str, Any] | None]) -> list[str]:
    """Returns the data, device, versions, seeds and time of results."""
    seconds: dict[str, float] = {}
    seeds: dict[str, set[int]] = {}
    for result in results:
        for run in result["runs"] if result else ():
            images = run.get("images")
            data = (
                f"{run['dataset']}, {images['train']:,} training and {images['test']:,} test images"
                if images
                else run["dtype"]
            )
            note = f" {_capital(run['note'].rstrip('.'))}." if run["note"] else ""
            if "copied_from" in run:
                note += f" The same runs as those of {run['copied_from']}, not trained again."
            about = (
                f"{data}; {run['device_count']} x {run['device']}, "
                f"JAX {run['versions']['jax']}, Flax {run['versions']['flax']}, revision "
                f"{(run['git_revision'] or 'unknown')[:10]}.{note}"
            )
            seconds[about] = seconds.get(about, 0) + run["seconds"]
            seeds.setdefault(about, set()).update(run.get("seeds", ()))
    return [
        f"{about} {_seeds(seeds[about])}{total:,.0f} seconds in total."
        for about, total in seconds.items()
    ]


def _seeds(seeds: set[int]) -> str:
    return f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}. " if seeds else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def detection_section(out: Path) -> list[str]:
    """Returns the lines on detectors."""
    study = detection.STUDY
    lines = [f"## {study.title}", "", study.question, "", ON_DETECTION]
    for scale in detection.ROWS:
        results = detection_results(out, scale)
        if any(results.values()):
            lines += ["", f"### {study.title}, {scale}", "", _capital(study.scales[scale]), ""]
            lines += [*detection_lines(scale, results), "", *provenance(results.values())]
        missing = [row.label for row in detection.ROWS[scale] if results[row.name] is None]
        published = published_text if scale == "full" else lambda label: "-"
        lines += not_run_lines(scale, {label: published(label) for label in missing})
    return [*lines, ""]


def inference_section(out: Path) -> list[str]:
    """Returns the lines on inference time, and draws the figure."""
    lines = ["## Inference time", "", "What does an SE block cost at each batch size?"]
    for scale in filter(inference_time.SCALES.__contains__, SCALES):
        cells = inference_time.cells(scale)
        results = [
            read_result(result_path(out, inference_time.NAME, scale, cell.name)) for cell in cells
        ]
        if not any(results) and scale != "full":
            continue
        if any(results):
            lines += ["", f"### Inference time, {scale}", "", inference_time.SCALES[scale], ""]
            lines += _inference_lines(cells, results)
            lines += ["", *provenance(results)]
        path = out / "figures" / f"inference_time_{scale}.png"
        if draw_latency(cells, results, path):
            lines += ["", f"![Inference time over batch size](figures/{path.name})"]
        missing = {
            f"{cell.title}, {cell.image_size} pixels, batch {cell.batch_size}": _published_time(
                cell
            )
            for cell, result in zip(cells, results, strict=True)
            if result is None
        }
        lines += not_run_lines(scale, missing)
    return [*lines, ""]


def _inference_lines(cells: Sequence[Any], results: Sequence[dict[str, Any] | None]) -> list[str]:
    """Returns the table of the timings with results."""
    lines = [
        "| network | pixels | batch | plain, ms per image | with SE, ms per image | "
        "with SE, images/s | cost of SE, % | rounds | published, ms per image |",
        "|---" * 9 + "|",
    ]
    for cell, result in zip(cells, results, strict=True):
        if result is None:
            continue
        plain, with_se = np.array(result["plain"]), np.array(result["se"])
        cost = paired_difference(
            dict(enumerate(100 * (with_se / plain - 1))), dict.fromkeys(range(len(plain)), 0.0)
        )
        lines.append(
            f"| {cell.title} | {cell.image_size} | {cell.batch_size} | "
            f"{spread(plain / cell.batch_size, 3)} | "
            f"{spread(with_se / cell.batch_size, 3)} | "
            f"{1e3 * cell.batch_size / np.median(with_se):,.1f} | {difference_text(cost)} | "
            f"{len(plain)} | {_published_time(cell)} |"
        )
    return lines


def _published_time(cell: inference_time.Timing) -> str:
    published = "-"
    for key in cell.published:
        (row,) = published_rows()[key]
        cost = float(row["se"]) / float(row["baseline"]) - 1
        published = f"{row['se']}, plain {row['baseline']} ({cost:+.0%}) ({row['source']})"
    return published


def speed_section(platform: str, out: Path) -> list[str]:
    """Returns the lines on the speed on a platform."""
    path = out / f"speed_{platform}.json"
    if not path.exists():
        return [f"## Speed on {platform.upper()}", "", "Not measured yet.", ""]
    page = speed.markdown(json.loads(path.read_text()))
    return [re.sub(r"^(#+)", r"#\1", line) for line in [*page.splitlines(), ""]]


def report(out: Path) -> str:
    """Returns the page for the results in a folder, first what has been run; draws its figures."""
    lines = ["# Results", "", *summary_lines(STUDIES, out)]
    lines += ["## How to read the tables", "", INTRODUCTION, ""]
    lines += ["Cells run so far:", "", *overview(out), ""]
    sections = [study_section(study, out) for study in STUDIES]
    sections += [
        gates_section(out),
        repeated_section(out),
        detection_section(out),
        inference_section(out),
    ]
    sections += [speed_section(platform, out) for platform in ("cpu", "gpu", "tpu")]
    sections.append(elsewhere_lines(backbones.ELSEWHERE))
    # What has results has a figure, and comes first.
    sections.sort(key=lambda section: not any(line.startswith("![") for line in section))
    for section in sections:
        lines += section
    return "\n".join(lines) + "\n"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>se_flax: results</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left; }}
img {{ max-width: 100%; }}
</style></head><body>
{}
</body></html>
"""


def html(page: str, folder: Path) -> str:
    """Returns a Markdown page as HTML with its images embedded."""

    def embed(match):
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = markdown.markdown(page, extensions=["tables", "md_in_html", "toc"])
    return _PAGE.format(re.sub(r'src="([^":]+\.png)"', embed, body))


def main(argv: list[str]) -> None:
    """Writes the report."""
    out = to_path(flags.FLAGS.out)
    if not out.is_dir():
        raise UserError(f"there is no folder {out}; run a study first, or give another --out")
    page = report(out)
    (out / "report.md").write_text(page)
    (out / "report.html").write_text(html(page, out))
    print(f"wrote {out / 'report.md'} and {out / 'report.html'}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "out", "experiments/results", "Folder that holds the results and gets the report."
    )
    app.run(run_command(main), flags_parser=parse_flags)
