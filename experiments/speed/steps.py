"""Time and memory of single training steps and of inference, side by side."""

import contextlib
import ctypes
import dataclasses
import gc
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp

from experiments.speed.implementations import IMPLEMENTATIONS, default_dtype, steps_at_once
from se_flax import create_model
from se_flax.burden import burden
from se_flax.models import model_info

GROUPS = (
    ("resnet20_cifar", "se_resnet20_cifar"),
    ("resnet50", "se_resnet50"),
    ("efficientnet_b0",),
)
NETWORKS = [name for group in GROUPS for name in group]


@dataclasses.dataclass
class Contender:
    """An implementation of a network, ready to be timed.

    Attributes:
        name, network, mode, batch_size: what it is.
        run: does the work `steps_at_once()` times, and waits for it.
        first_seconds: time to build it and run it, including compilation.
        working_mb: peak memory minus memory in use before, in MB.
        seconds: time per run in each round.
    """

    name: str
    network: str
    mode: str
    batch_size: int
    run: Callable[[], None]
    first_seconds: float
    working_mb: float | None
    seconds: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def ready(cls, name: str, network: str, mode: str, batch_size: int) -> "Contender":
        """Returns a contender that has already compiled everything."""
        begun = time.perf_counter()
        run = IMPLEMENTATIONS[name](network, mode, batch_size, default_dtype())
        run()
        first_seconds = time.perf_counter() - begun
        run()
        return cls(name, network, mode, batch_size, run, first_seconds, working_memory(run))

    def measure(self, seconds: float) -> None:
        """Adds a round of at least the given seconds, after one run that does not count.

        The previous contender leaves spinning threads and filled caches behind.
        """
        self.run()
        begun, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - begun < seconds:
            self.run()
            times += 1
        self.seconds.append((time.perf_counter() - begun) / times / steps_at_once())

    def row(self, macs: int, limit_gflops: float) -> dict[str, Any]:
        """Returns the result, given the network's multiply-adds per image."""
        median = statistics.median(self.seconds)
        work = 2 * macs * self.batch_size * (3 if self.mode == "training" else 1)
        return {
            "network": self.network,
            "mode": self.mode,
            "batch_size": self.batch_size,
            "implementation": self.name,
            "milliseconds": 1e3 * median,
            "fastest": 1e3 * min(self.seconds),
            "slowest": 1e3 * max(self.seconds),
            "seconds": self.seconds,
            "images_per_second": self.batch_size / median,
            "first_seconds": self.first_seconds,
            "working_mb": self.working_mb,
            "share_of_matrix_product": work / median / 1e9 / limit_gflops,
        }


def working_memory(run: Callable[[], None]) -> float | None:
    """Returns how much run() adds to resident memory, in MB; None except on CPUs under Linux."""
    status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
    if jax.default_backend() != "cpu" or not reset.exists():
        return None

    def megabytes(field):
        return int(re.search(rf"{field}:\s*(\d+) kB", status.read_text())[1]) / 1024

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = megabytes("VmRSS")
    reset.write_text("5")  # resets the peak
    run()
    return megabytes("VmHWM") - before


def limits() -> dict[str, float]:
    """Returns the best speed of a matrix product, in GFLOP/s, and of a copy, in GB/s."""
    dtype = default_dtype()
    n = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((n, n), dtype)
    vector = jnp.ones(2**26 if jax.default_backend() == "cpu" else 2**30, jnp.float32)
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda a: a + 1)
    best = {}
    for function, argument in ((product, matrix), (copy, vector)):
        jax.block_until_ready(function(argument))
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            jax.block_until_ready(function(argument))
            seconds.append(time.perf_counter() - begun)
        best[function] = min(seconds)
    return {
        "matrix_product_gflops": 2 * n**3 / best[product] / 1e9,
        "copy_gb_per_second": 2 * vector.nbytes / best[copy] / 1e9,
    }


def batch_sizes(name: str, mode: str) -> tuple[int, ...]:
    """Returns the batch sizes to measure."""
    if "cifar" in name:
        return (128,) if mode == "training" else (1, 128)
    training = 16 if jax.default_backend() == "cpu" else 128
    return (training,) if mode == "training" else (1, training)


def measure_steps(
    names: list[str], implementations: list[str], rounds: int, seconds: float
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """Yields rows and failures for each group, and on a CPU for each mode and batch size."""
    limit = limits()["matrix_product_gflops"]
    for group in GROUPS:
        group = [name for name in group if name in names]
        macs = {name: burden(create_model(name), model_info(name).input_size) for name in group}
        places = [
            (mode, batch_size)
            for mode in ("training", "inference")
            for batch_size in (batch_sizes(group[0], mode) if group else ())
        ]
        together = [places] if jax.default_backend() != "cpu" else [[place] for place in places]
        for some in together:
            cases = [
                (implementation, name, *place)
                for place in some
                for implementation in implementations
                for name in group  # plain and SE in a row
            ]
            contenders, missing = prepared(cases)
            for place in some:
                alike = [c for c in contenders if (c.mode, c.batch_size) == place]
                for _ in range(rounds):
                    for contender in alike:
                        contender.measure(seconds)
            yield [c.row(macs[c.network].multiply_adds, limit) for c in contenders], missing
            del contenders
            jax.clear_caches()
            gc.collect()


def prepared(cases: Sequence[tuple[str, str, str, int]]) -> tuple[list[Contender], list[str]]:
    """Returns contenders that are ready, and what failed, for arguments of `Contender.ready`.

    On an accelerator, JAX's programs are compiled at the same time. On a CPU, one after the other,
    because that is where the time and memory of the first run are measured.
    """
    contenders, missing = [], []
    with futures.ThreadPoolExecutor(8) as pool:
        started: dict[Any, futures.Future[Contender]] = {}
        if jax.default_backend() != "cpu":
            of_jax = [case for case in cases if not case[0].startswith("PyTorch")]
            started = {case: pool.submit(Contender.ready, *case) for case in of_jax}
        for case in cases:
            try:
                ready = started[case].result() if case in started else Contender.ready(*case)
            except Exception as error:  # a library is missing or fails
                missing.append(f"{', '.join(case[:3])}: {error!r:.200}")
                continue
            contenders.append(ready)
    return contenders, missing


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the speed-up of se_flax over each other implementation, and the cost of SE, by name.

    These are medians over the rounds; in each round, all are measured one after another.
    """
    return {name: statistics.median(values) for name, values in ratios_of_rounds(rows).items()}


def ratios_of_rounds(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns the ratios in each round, whose medians `ratios` returns."""
    fields = ("network", "mode", "batch_size", "implementation")
    seconds = {tuple(row[field] for field in fields): row["seconds"] for row in rows}

    def ratio(slower, faster):
        if slower not in seconds or faster not in seconds:
            return []
        return [a / b for a, b in zip(seconds[slower], seconds[faster], strict=True)]

    result = {}
    for network, *place, implementation in seconds:
        if implementation != "se_flax":
            continue
        name = f"{network}, {place[0]}, batch {place[1]}"
        for other in IMPLEMENTATIONS:
            if other != "se_flax":
                result[f"{name}: se_flax / {other}"] = ratio(
                    (network, *place, other), (network, *place, "se_flax")
                )
        plain = network.removeprefix("se_")
        if plain != network:
            for each in IMPLEMENTATIONS:
                slowdowns = ratio((network, *place, each), (plain, *place, each))
                result[f"{name}: cost of SE, {each}"] = [slowdown - 1 for slowdown in slowdowns]
    return {name: values for name, values in result.items() if values}
