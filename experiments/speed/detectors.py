"""Speed and memory of Faster R-CNN next to torchvision's."""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.peers.detector_process import BOXES, NUM_CLASSES, Case

HEIGHT, WIDTH = 320, 448
BATCH_SIZE = 2
CASES = [
    Case(implementation, network, mode, BATCH_SIZE, HEIGHT, WIDTH)
    for mode in ("training", "inference")
    for implementation, network in (
        ("se_flax", "resnet50"),
        ("se_flax", "se_resnet50"),
        ("torchvision", "resnet50"),
    )
]


@contextlib.contextmanager
def started(case: Case) -> Iterator[subprocess.Popen[str]]:
    """Starts the process of a case, and ends it."""
    command = [sys.executable, "-m", "experiments.peers.detector_process"]
    command.append(json.dumps(dataclasses.asdict(case)))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answer(process: subprocess.Popen[str]) -> Any:
    """Returns the next line that a process says."""
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with exit status {process.wait()}")
    return json.loads(line)


def measure_detectors(
    rounds: int, seconds: float, cases: Sequence[Case] = CASES
) -> Iterator[dict[str, Any]]:
    """Yields the row of each case; those of a mode take turns, each in a process of its own.

    Args:
        rounds: number of rounds.
        seconds: time for a case in a round.
        cases: what to measure.
    """
    for mode in dict.fromkeys(case.mode for case in cases):
        alike = [case for case in cases if case.mode == mode]
        with contextlib.ExitStack() as stack:
            ready = []
            for case in alike:
                process = stack.enter_context(started(case))
                ready.append((process, answer(process), []))
            for process, _, times in ready * rounds:
                process.stdin.write(f"{seconds}\n")
                times.append(answer(process))
        for case, (_, said, times) in zip(alike, ready, strict=True):
            yield dataclasses.asdict(case) | said | {"seconds": times}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Returns how much longer others take than ours without SE, the median over the rounds.

    The keys are (mode, other), where the other is torchvision's or ours with SE.
    """
    of = {(r["mode"], f"{r['implementation']} {r['network']}"): r["seconds"] for r in rows}
    pairs = (
        ("torchvision resnet50", "se_flax resnet50"),
        ("se_flax se_resnet50", "se_flax resnet50"),
    )
    result = {}
    for mode in dict.fromkeys(mode for mode, _ in of):
        for slower, faster in pairs:
            if (mode, slower) in of and (mode, faster) in of:
                values = zip(of[mode, slower], of[mode, faster], strict=True)
                result[mode, slower] = statistics.median(a / b for a, b in values)
    return result


def page(results: dict[str, Any]) -> str:
    """Returns the results as a page."""
    machine, rows = results["environment"], results["detectors"]
    has_operators = results["torchvision_has_operators"]
    lines = [
        f"# Speed of Faster R-CNN on {machine['platform'].upper()}",
        "",
        f"On {machine['device_count']} x {machine['device']} ({machine['platform']}), "
        f"{results['cores']} cores, float32, JAX {machine['versions']['jax']}, "
        f"PyTorch {results['torch']}, torchvision {results['torchvision']}; made by "
        "`python -m experiments.speed --section=detectors`. "
        f"{BATCH_SIZE} random images of {HEIGHT} x {WIDTH} pixels with {BOXES} boxes each, random "
        f"weights, {NUM_CLASSES} classes; "
        "numbers of proposals and regions are torchvision's defaults in both. A training step is "
        "forward, the four losses, their gradients, and an SGD update; batch norms, stem and first "
        "stage are frozen. Each detector has a process of its own, and those of a mode take turns. "
        "Times are medians over rounds. Memory is the largest resident set of the process in a run "
        "after the first, libraries and weights included.",
        "",
    ]
    if not has_operators:
        lines += [
            "torchvision's compiled operators did not load. Its RoIAlign and suppression are those "
            "of `experiments/peers/torchvision_detector.py` instead.",
            "",
        ]
    lines += [
        "| mode | detector | implementation | ms (fastest to slowest) | images/s | first run, s | "
        "memory, MB |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        times = row["seconds"]
        median, low, high = (1e3 * f(times) for f in (statistics.median, min, max))
        memory = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        lines.append(
            f"| {row['mode']} | fasterrcnn_{row['network']}_fpn | {row['implementation']} | "
            f"{median:.0f} ({low:.0f} to {high:.0f}) | {1e3 * row['batch_size'] / median:.2f} | "
            f"{row['first_seconds']:.0f} | {memory} |"
        )
    lines.append("")
    for (mode, slower), value in ratios(rows).items():
        if slower.startswith("se_flax"):
            lines.append(f"- {mode}: SE costs {value - 1:+.1%} of the time.")
        else:
            lines.append(f"- {mode}: speed-up of se_flax over torchvision {value:.2f}.")
    return "\n".join(lines) + "\n"
