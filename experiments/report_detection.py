"""The section of the report on detectors (`experiments.detection`)."""

from typing import Any

from experiments import detection
from experiments.compare import difference_text, paired_difference, spread
from experiments.published import change_of, published_rows
from experiments.study import read_result, result_path
from se_flax.runtime.paths import Path

SCALE = "full"
METRICS = ("AP50", "AP", "AP75", "AP_small", "AP_medium", "AP_large")
INTRODUCTION = """\
Average precision in percent on COCO's minival, the mean and standard deviation over n seeds: AP50
at an IoU of 0.5, AP over IoUs of 0.5 to 0.95. "What SE changes" is the difference in AP, as above.\
"""


def of_seeds(result: dict[str, Any] | None, metric: str) -> dict[int, float]:
    """Returns a metric after the last epoch, in percent, by seed."""
    return {each["seed"]: each["final"][metric] for each in (result or {}).get("results", ())}


def published_text(label: str) -> str:
    """Returns the published figures of a trunk, and what SE changes in them."""
    texts = []
    for row in published_rows()[detection.published(label)]:
        if label.startswith("SE-"):
            texts.append(f"{row['metric']} {row['se']} ({change_of(row):+.1f})")
        else:
            texts.append(f"{row['metric']} {row['baseline']}")
    return f"{', '.join(texts)} ({row['source']})"


def table_lines(results: dict[str, dict[str, Any] | None]) -> list[str]:
    """Returns the table of the detectors with results."""
    lines = [
        f"| trunk | parameters | {' | '.join(METRICS)} | n | what SE changes | published |",
        "|---" * (5 + len(METRICS)) + "|",
    ]
    for name, label, baseline in detection.ROWS:
        result = results[name]
        if result is None:
            continue
        values = [spread(of_seeds(result, metric).values(), 1) for metric in METRICS]
        difference = "-"
        if baseline is not None:
            plain = of_seeds(results[baseline], "AP")
            difference = difference_text(paired_difference(of_seeds(result, "AP"), plain))
        lines.append(
            f"| {label} | {result['parameters']:,} | {' | '.join(values)} | "
            f"{len(result['results'])} | {difference} | {published_text(label)} |"
        )
    return lines


def detection_results(out: Path) -> dict[str, dict[str, Any] | None]:
    """Returns the results of each detector, or None, by the name of its cell."""
    names = (name for name, _, _ in detection.ROWS)
    return {name: read_result(result_path(out, "detection", SCALE, name)) for name in names}
