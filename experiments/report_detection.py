"""The section of the report on detectors (`experiments.detection`)."""

from typing import Any

from experiments import detection
from experiments.compare import difference_text, paired_difference, spread
from experiments.published import change_of, published_rows
from experiments.study import read_result, result_path
from se_flax.runtime.paths import Path

METRICS = ("AP50", "AP", "AP75", "AP_small", "AP_medium", "AP_large")
INTRODUCTION = """\
Average precision in percent on images that were not trained on, the mean and standard deviation
over n seeds: AP50 at an IoU of 0.5, AP over IoUs of 0.5 to 0.95. "What SE changes" is the
difference in AP, as above.\
"""


def of_seeds(result: dict[str, Any] | None, metric: str) -> dict[int, float]:
    """Returns a metric after the last epoch, in percent, by seed, where there is one."""
    results = (result or {}).get("results", ())
    return {each["seed"]: each["final"][metric] for each in results if metric in each["final"]}


def published_text(label: str) -> str:
    """Returns the published figures of a trunk, and what SE changes in them."""
    texts = []
    for row in published_rows()[detection.published(label)]:
        if label.startswith("SE-"):
            texts.append(f"{row['metric']} {row['se']} ({change_of(row):+.1f})")
        else:
            texts.append(f"{row['metric']} {row['baseline']}")
    return f"{', '.join(texts)} ({row['source']})"


def table_lines(scale: str, results: dict[str, dict[str, Any] | None]) -> list[str]:
    """Returns the table of the detectors of a scale that have results."""
    has_published = scale == "full"
    titles = ["trunk", "parameters", *METRICS, "n", "what SE changes"]
    titles += ["published"] * has_published
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, label, baseline in detection.ROWS[scale]:
        result = results[name]
        if result is None:
            continue
        of_metric = [of_seeds(result, metric).values() for metric in METRICS]
        values = [spread(each, 1) if each else "-" for each in of_metric]
        difference = "-"
        if baseline is not None:
            plain = of_seeds(results[baseline], "AP")
            difference = difference_text(paired_difference(of_seeds(result, "AP"), plain))
        cells = [label, f"{result['parameters']:,}", *values, str(len(result["results"]))]
        cells += [difference, *([published_text(label)] if has_published else [])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def detection_results(out: Path, scale: str) -> dict[str, dict[str, Any] | None]:
    """Returns the results of each detector of a scale, or None, by the name of its cell."""
    names = (row.name for row in detection.ROWS[scale])
    return {name: read_result(result_path(out, "detection", scale, name)) for name in names}
