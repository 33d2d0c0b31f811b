"""The page of results."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from experiments.tpu.chips import CHIPS, Topology, least_seconds
from experiments.tpu.detectors import MAX_BOXES, PADDED
from experiments.tpu.programs import PROGRAMS, RUNS, key, plain

Row = dict[str, Any]
ESTIMATE = "estimate"
TITLES = {
    "training": "Training step",
    "dispatch": "Many training steps as one program",
    "inference": "Inference",
}


def per_chip(row: Row, value: str) -> float:
    """Returns a number of a row for one chip, and for one step if it counts work."""
    return row[value] * Topology.of(row["topology"]).chip.devices


def seconds(row: Row) -> tuple[float, str]:
    """Returns the time of a program, and where it comes from.

    That is the compiler's own estimate where it has one. The estimate is negative where a single
    operation has none; then the time is the least that the chip needs for the operations, or for
    the bytes.
    """
    if (estimate := row["estimate"]) is not None and math.isfinite(estimate) and estimate > 0:
        return estimate, ESTIMATE
    return least(row)


def least(row: Row) -> tuple[float, str]:
    """Returns the time that the chip needs at least, and what bounds it."""
    chip = Topology.of(row["topology"]).chip
    return least_seconds(chip, per_chip(row, "flops"), per_chip(row, "bytes"))


def share_of_peak(row: Row) -> float:
    """Returns the operations per second as a share of the chip's peak."""
    return per_chip(row, "flops") / seconds(row)[0] / Topology.of(row["topology"]).chip.flops


def cost_of_se(row: Row, plain_row: Row) -> tuple[float, float]:
    """Returns by how much SE blocks raise time and bytes, as shares of the plain network's.

    If only one of the two has an estimate, the least times of both are compared.
    """
    (with_se, source), (without, plain_source) = seconds(row), seconds(plain_row)
    if (source == ESTIMATE) != (plain_source == ESTIMATE):
        with_se, without = least(row)[0], least(plain_row)[0]
    return with_se / without - 1, row["bytes"] / plain_row["bytes"] - 1


def page(results: dict[str, Any]) -> str:
    """Returns the results as a page."""
    rows = {key(row): row for row in results["rows"]}
    versions = results["versions"]
    names = ", ".join(f"{name} {versions[name]}" for name in ("jax", "jaxlib", "libtpu", "flax"))
    lines = [
        "# Programs for TPUs: times are the TPU compiler's estimates, not measurements",
        "",
        "Made by `python -m experiments.tpu`, which compiles this project's programs for TPUs "
        f"without a TPU. Networks compute in bfloat16. Versions: {names}. Revisions: "
        f"{', '.join(sorted({row['revision'][:10] for row in results['rows']}))}.",
        "",
        "All numbers are those of one chip. HBM is what the program needs, its arguments "
        "included, next to what the chip has. FLOPs and bytes are the compiler's count of "
        "operations, and of bytes that they read and write, whether in HBM or on the chip. How "
        "many of the bytes are in HBM is counted in the text of the compiled program "
        "(`experiments/tpu/traffic.py`), except for programs with loops. The time is the "
        'compiler\'s estimate. Where it has none, the column "time from" says "FLOPs" or "bytes": '
        "the time is then the larger of FLOPs over the chip's peak and all bytes over its "
        "bandwidth, which is slow for bytes on the chip, but near the compiler's own estimates "
        "where it has some. The share of the peak is that of the FLOPs in this time. The cost of "
        "SE is by how much time and bytes exceed those of the same network without SE blocks.",
        "",
        "A training step includes the average of the gradients over all chips, and the update; its "
        "images are given augmented. The program of many steps augments them itself, and holds the "
        "data set; the compiler counts its loop once, so its numbers are those of one step and of "
        "what is done before and after all steps. Stock Flax is the same network made of Flax's "
        "own layers, without dropout and stochastic depth, trained with SGD "
        "(`experiments/peers/stock_flax.py`). A training program that does not fit is followed by "
        "those that save memory (`config.remat`, `config.accumulate_steps`); with the second, the "
        "compiler counts one part of the batch. Detectors get images padded to "
        f"{PADDED[0]} x {PADDED[1]} pixels, with {MAX_BOXES} places for true boxes, and find "
        "objects in inference; their loops count once, too: suppression, and the gradient of "
        "RoIAlign.",
        "",
        "| chip | bfloat16 peak, TFLOP/s | HBM, GiB | bandwidth, GB/s | source |",
        "|---|---|---|---|---|",
    ]
    for name, chip in CHIPS.items():
        lines.append(
            f"| {name} | {chip.flops / 1e12:.0f} | {chip.hbm / 2**30:.0f} | "
            f"{chip.bandwidth / 1e9:.0f} | {chip.source} |"
        )
    for topology in dict.fromkeys(row["topology"] for row in results["rows"]):
        lines += ["", f"## {topology}, {Topology.of(topology).chips} chips"]
        for program in PROGRAMS:
            some = [
                row
                for row in results["rows"]
                if (row["topology"], row["program"]) == (topology, program)
            ]
            if some:
                lines += ["", f"### {TITLES[program]}", "", *_table(some, rows)]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Row], all_rows: dict[Any, Row]) -> Iterator[str]:
    yield (
        "| network | implementation | images | compiles | HBM, GiB | GFLOP | MB | in HBM | ms | "
        "time from | of peak | SE costs: time, bytes |"
    )
    yield "|---" * 12 + "|"
    order = list(RUNS)
    for row in sorted(rows, key=lambda row: order.index(row["network"])):
        topology = Topology.of(row["topology"])
        images = f"{row['batch_size'] / topology.chips:g}"
        yield (
            f"| {row['network']} | {key(row).form} | {images} | "
            f"{'yes' if row['compiles'] else row['reason']} | {_hbm(row)} | "
            f"{' | '.join(_work(row))} | {_cost(row, all_rows)} |"
        )


def _hbm(row: Row) -> str:
    if "hbm" not in row:
        return "-"
    has = Topology.of(row["topology"]).chip.hbm / 2**30
    return f"{per_chip(row, 'hbm') / 2**30:.2f} of {has:.0f}"


def _work(row: Row) -> tuple[str, ...]:
    if not row["compiles"]:
        return ("-",) * 6
    time, source = seconds(row)
    return (
        f"{per_chip(row, 'flops') / 1e9:.2f}",
        f"{per_chip(row, 'bytes') / 1e6:.1f}",
        "-" if row["hbm_bytes"] is None else f"{per_chip(row, 'hbm_bytes') / 1e6:.1f}",
        f"{1e3 * time:.4f}",
        source,
        f"{share_of_peak(row):.1%}",
    )


def _cost(row: Row, all_rows: dict[Any, Row]) -> str:
    if not row["compiles"] or (name := plain(row["network"])) is None:
        return "-"
    without = all_rows.get(key({**row, "network": name}))
    if without is None or not without["compiles"]:
        return "-"
    return "{:+.1%}, {:+.1%}".format(*cost_of_se(row, without))
