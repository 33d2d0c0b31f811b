"""The page of results."""

import statistics
from typing import Any

import numpy as np

from experiments.speed.implementations import IMPLEMENTATIONS
from experiments.speed.runs import STARTUP_CONFIG
from experiments.speed.steps import ratios, ratios_of_rounds


def markdown(results: dict[str, Any]) -> str:
    """Returns the results as a page, speed-ups first."""
    machine = results["environment"]
    lines = [
        f"# Speed on {machine['platform'].upper()}",
        "",
        f"On {machine['device_count']} x {machine['device']} ({machine['platform']}), "
        f"{results['cores']} cores, {results['dtype']}, JAX {machine['versions']['jax']}; made by "
        "`python -m experiments.speed`. Times are medians over rounds, in which all take turns in "
        "one process; ratios are medians of the ratios in each round. On a CPU, se_flax is "
        "compiled with its own options (`se_flax.runtime.compiler.compiler_options`), and stock "
        "Flax with the defaults of XLA. Revisions: "
        + ", ".join(
            f"{name} {(revision or 'unknown')[:10]}"
            for name, revision in results["revisions"].items()
        )
        + ".",
    ]
    if rows := results.get("steps"):
        lines += _speed_ups(rows)
        lines += _measured(rows, results["limits"])
        if results["not_measured"]:
            lines += ["", "Not measured:", "", *(f"- {line}" for line in results["not_measured"])]
    lines += _runs(results)
    return "\n".join(lines) + "\n"


def _speed_ups(rows: list[dict[str, Any]]) -> list[str]:
    compared, of_rounds = ratios(rows), ratios_of_rounds(rows)
    others = [name for name in IMPLEMENTATIONS if name != "se_flax"]
    lines = ["", "## Speed-up of se_flax over", ""]
    lines += [f"| network | mode | batch | {' | '.join(others)} | cost of SE (quartiles) |"]
    lines += ["|---" * (4 + len(others)) + "|"]
    for row in rows:
        if row["implementation"] == "se_flax":
            place = f"{row['network']}, {row['mode']}, batch {row['batch_size']}"
            cells = [compared.get(f"{place}: se_flax / {other}") for other in others]
            cost = of_rounds.get(f"{place}: cost of SE, se_flax")
            lines.append(
                f"| {row['network']} | {row['mode']} | {row['batch_size']} | "
                + " | ".join("-" if cell is None else f"{cell:.2f}" for cell in cells)
                + f" | {_median_and_quartiles(cost) if cost else '-'} |"
            )
    return lines


def _measured(rows: list[dict[str, Any]], limits: dict[str, float]) -> list[str]:
    return [
        "",
        "## Measured",
        "",
        f"Limits: {limits['matrix_product_gflops']:.0f} GFLOP/s in a matrix "
        f"product, {limits['copy_gb_per_second']:.1f} GB/s in a copy. Share: speed "
        "of the multiply-adds (a training step has three times those of inference) relative to "
        "the matrix product.",
        "",
        "| network | mode | batch | implementation | ms (fastest to slowest) | images/s | "
        "share | first run, s | working memory, MB |",
        "|---" * 9 + "|",
        *(
            f"| {row['network']} | {row['mode']} | {row['batch_size']} | {row['implementation']} | "
            f"{row['milliseconds']:.1f} ({row['fastest']:.1f} to {row['slowest']:.1f}) | "
            f"{row['images_per_second']:.1f} | {row['share_of_matrix_product']:.0%} | "
            f"{row['first_seconds']:.1f} | "
            f"{'-' if row['working_mb'] is None else round(row['working_mb'])} |"
            for row in rows
        ),
    ]


def _runs(results: dict[str, Any]) -> list[str]:
    lines = []
    if loop := results.get("loop"):
        lines += [
            "",
            "## A run compared with its bare steps",
            "",
            f"SE-ResNet-20, batch 128: {statistics.median(loop['images_per_second']['run']):.0f} "
            f"images/s in a run, {statistics.median(loop['images_per_second']['step']):.0f} in its "
            f"bare steps: {loop['ratio']:.1%}.",
        ]
    if seeds := results.get("seeds"):
        lines += [
            "",
            "## Several seeds in one run",
            "",
            "SE-ResNet-20, batch 128 for each seed. Images per second are summed over the seeds.",
            "",
            "| type | seeds | images/s | compared with one seed |",
            "|---" * 4 + "|",
        ]
        alone = {row["dtype"]: row["images_per_second"] for row in seeds if row["seeds"] == 1}
        lines += [
            f"| {row['dtype']} | {row['seeds']} | {row['images_per_second']:,.0f} | "
            f"{row['images_per_second'] / alone[row['dtype']]:.2f} |"
            for row in seeds
        ]
    if startup := results.get("startup"):
        lines += ["", f"## From the command to the first step (`--config={STARTUP_CONFIG}`)", ""]
        for name, value in startup.items():
            if isinstance(value, str):
                lines.append(f"- {name}: {value}")
            else:
                lines.append(
                    f"- {name}: {value['seconds']:.1f} s; without interpreter and imports "
                    f"{value['of_them']}"
                )
    if results.get("scaling"):
        lines += ["", "## Cost against size", "", f"![images per second]({results['figure']})"]
    return lines


def _median_and_quartiles(values: list[float]) -> str:
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.1%} ({low:.1%} to {high:.1%})"
