"""Speed of single convolutions next to PyTorch's, over map size, channels, kernel and stride."""

import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.implementations import default_dtype
from se_flax.layers.cpu import conv_general_dilated

SIZES = (1, 2, 4, 8, 16, 32, 64)
CHANNELS = (16, 64, 256, 512)
KERNELS = (1, 3, 5, 7)
STRIDES = (1, 2)
BATCH_SIZE = 32
MOST_MULTIPLY_ADDS = 1e9
"""Of a whole batch, which is smaller than BATCH_SIZE where images take more."""
FIELDS = ("size", "channels", "kernel", "stride", "batch_size")
CLIFF = 0.5
LOWEST = 12
"""Number of convolutions shown at least, if not more have a ratio below CLIFF."""
PASSES = ("forward", "gradients")
Works = dict[str, Callable[[], None]]


def our_works(images: np.ndarray, kernel: np.ndarray, stride: int) -> Works:
    """Returns the two passes with the package's convolution."""
    pad = len(kernel) // 2
    convolution = functools.partial(
        conv_general_dilated,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

    def gradients(images, kernel, direction):
        return jax.vjp(convolution, images, kernel)[1](direction)

    operands = [jnp.asarray(x, default_dtype()) for x in (images, kernel)]
    forward = jax.jit(convolution)
    backward = jax.jit(gradients)
    direction = jnp.ones_like(forward(*operands))
    return {
        "forward": lambda: jax.block_until_ready(forward(*operands)),
        "gradients": lambda: jax.block_until_ready(backward(*operands, direction)),
    }


def pytorch_works(images: np.ndarray, kernel: np.ndarray, stride: int) -> Works:
    """Returns the two passes in PyTorch, in channels-last memory."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    pad = len(kernel) // 2
    options = {"device": device, "dtype": getattr(torch, default_dtype())}
    x = torch.tensor(images, **options).permute(0, 3, 1, 2)
    weight = torch.tensor(kernel, **options).permute(3, 2, 0, 1)
    weight = weight.contiguous(memory_format=torch.channels_last)
    geometry = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1)
    direction = torch.ones_like(torch.ops.aten.convolution(x, weight, None, *geometry))

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward():
        torch.ops.aten.convolution(x, weight, None, *geometry)
        wait()

    def gradients():
        wanted = [True, True, False]
        torch.ops.aten.convolution_backward(direction, x, weight, None, *geometry, wanted)
        wait()

    return {"forward": forward, "gradients": gradients}


IMPLEMENTATIONS = {"se_flax": our_works, "PyTorch": pytorch_works}


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def fastest(works: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, float]:
    """Returns the shortest time of each in milliseconds.

    They take turns. A turn is one run that does not count, then runs for the given seconds. On one
    core these are seconds of the processor, which other programs on the machine do not add to.
    """
    clock = time.process_time if cores() == 1 else time.perf_counter
    best = dict.fromkeys(works, math.inf)
    for name in list(works) * rounds:
        works[name]()
        begun = before = clock()
        while before - begun < seconds or before == begun:
            works[name]()
            now = clock()
            best[name] = min(best[name], 1e3 * (now - before))
            before = now
    return best


def measure_convolutions(rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the times of each convolution."""
    generator = np.random.default_rng(0)
    for size, channels, kernel, stride in itertools.product(SIZES, CHANNELS, KERNELS, STRIDES):
        multiply_adds = math.ceil(size / stride) ** 2 * kernel**2 * channels**2
        batch_size = max(1, min(BATCH_SIZE, int(MOST_MULTIPLY_ADDS / multiply_adds)))
        images = generator.normal(size=(batch_size, size, size, channels))
        weights = generator.normal(size=(kernel, kernel, channels, channels))
        works = {name: make(images, weights, stride) for name, make in IMPLEMENTATIONS.items()}
        row = {
            "size": size,
            "channels": channels,
            "kernel": kernel,
            "stride": stride,
            "batch_size": batch_size,
        }
        for each in PASSES:
            row[each] = fastest({name: work[each] for name, work in works.items()}, rounds, seconds)
        yield row
        jax.clear_caches()


def ratio(row: dict[str, Any], each: str) -> float:
    """Returns how much faster than PyTorch a pass is."""
    return row[each]["PyTorch"] / row[each]["se_flax"]


def page(results: dict[str, Any]) -> str:
    """Returns the results as a page, the lowest ratios first."""
    machine, rows = results["environment"], results["convolutions"]
    lines = [
        f"# Speed of convolutions on {machine['platform'].upper()}",
        "",
        f"On {machine['device_count']} x {machine['device']} ({machine['platform']}), "
        f"{results['cores_used']} of {results['cores']} cores, {results['dtype']}, JAX "
        f"{machine['versions']['jax']}; made by "
        "`python -m experiments.speed --section=convolutions`. Maps and kernels are square, with "
        "as many channels out as in and padding of half the kernel. There are "
        f"{BATCH_SIZE} images, or fewer where the batch would take more than "
        f"{MOST_MULTIPLY_ADDS:.0e} multiply-adds. Forward is the convolution; gradients are those "
        "for the images and for the kernel, without it. Times are the fastest of all runs, in "
        "which se_flax and PyTorch take turns; ratios are speed-ups of se_flax over PyTorch.",
    ]
    if results["note"]:
        lines += ["", results["note"]]
    for each in PASSES:
        lines += _lowest(rows, each)
        lines += _by_size(rows, each)
    return "\n".join(lines) + "\n"


def _lowest(rows: list[dict[str, Any]], each: str) -> list[str]:
    ascending = sorted(rows, key=lambda row: ratio(row, each))
    below = sum(ratio(row, each) < CLIFF for row in rows)
    lines = [
        "",
        f"## {each.capitalize()}",
        "",
        f"The median ratio is {statistics.median(ratio(row, each) for row in rows):.2f}; {below} "
        f"of {len(rows)} are below {CLIFF}. The lowest:",
        "",
        "| map | channels | kernel | stride | batch | se_flax, ms | PyTorch, ms | ratio |",
        "|---" * 8 + "|",
    ]
    for row in ascending[: max(LOWEST, below)]:
        place = " | ".join(str(row[field]) for field in FIELDS)
        times = " | ".join(f"{row[each][name]:.3f}" for name in IMPLEMENTATIONS)
        lines.append(f"| {place} | {times} | {ratio(row, each):.2f} |")
    return lines


def _by_size(rows: list[dict[str, Any]], each: str) -> list[str]:
    lines = ["", "The lowest ratio over channels and strides:", ""]
    lines += ["| map | " + " | ".join(f"kernel {kernel}" for kernel in KERNELS) + " |"]
    lines += ["|---" * (1 + len(KERNELS)) + "|"]
    for size in SIZES:
        cells = []
        for kernel in KERNELS:
            found = [
                ratio(row, each) for row in rows if (row["size"], row["kernel"]) == (size, kernel)
            ]
            cells.append(f"{min(found):.2f}" if found else "-")
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return lines
