"""Speed of whole runs: their loop, their start, and how they scale."""

import contextlib
import io
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from typing import Any

import jax
import numpy as np

from experiments.speed.implementations import default_dtype
from se_flax import list_models
from se_flax.config import default_config
from se_flax.data import Dataset, Split
from se_flax.program import Program, build_program
from se_flax.train import train

STARTUP_CONFIG = "configs/se_resnet_cifar10.py:20"


def noise_dataset(train: int, test: int) -> Dataset:
    """Returns a data set of noise in the format of CIFAR-10."""
    generator = np.random.default_rng(0)

    def split(n):
        images = generator.integers(0, 256, (n, 32, 32, 3), np.uint8)
        return Split(images, generator.integers(0, 10, n))

    return Dataset(
        name="noise",
        train=split(train),
        test=split(test),
        class_names=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        horizontal_flip=True,
    )


def measure_loop(rounds: int) -> dict[str, Any]:
    """Returns images per second of a training run and of its bare steps."""
    config = default_config()
    config.model.name, config.num_epochs, config.dtype = "se_resnet20_cifar", 1, default_dtype()
    steps = 30 if jax.default_backend() == "cpu" else 2000
    dataset = noise_dataset(steps * config.batch_size, 128)
    speeds = {"run": [], "step": []}
    for _ in range(rounds):
        program = build_program(config, dataset)
        state = program.initial_state()
        dispatched = program.plan.steps_per_dispatch
        state, metrics = program.train(state, 0, dispatched)
        jax.block_until_ready(metrics)
        begun = time.perf_counter()
        for step in range(dispatched, steps, dispatched):
            state, metrics = program.train(state, step, dispatched)
        jax.block_until_ready((state, metrics))
        images = (steps - dispatched) // dispatched * dispatched * config.batch_size
        speeds["step"].append(images / (time.perf_counter() - begun))
        program.close()
        with (
            tempfile.TemporaryDirectory() as workdir,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            speeds["run"].append(train(config, workdir, dataset)["images_per_second"])
    run, step = (statistics.median(speeds[name]) for name in ("run", "step"))
    return {"images_per_second": speeds, "ratio": run / step}


def measure_seeds() -> list[dict[str, Any]]:
    """Returns the speed of SE-ResNet-20 with several seeds, computed at once and in turn.

    The steps are those of a run, many to a dispatch on an accelerator. Images per second are
    counted over all networks.
    """
    on_cpu = jax.default_backend() == "cpu"
    cases = [
        (dtype, mode, count)
        for dtype in dict.fromkeys(("float32", default_dtype()))
        for mode, counts in (("in_turn", (1,)), ("vmap", (2,) if on_cpu else (2, 4, 8)))
        for count in counts
    ]
    with futures.ThreadPoolExecutor(1 if on_cpu else len(cases)) as pool:
        ready = list(pool.map(lambda case: _ready_to_train(*case), cases))
    return [
        {"dtype": dtype, "mode": mode, "seeds": count, "images_per_second": _speed(*each)}
        for (dtype, mode, count), each in zip(cases, ready, strict=True)
    ]


def _ready_to_train(dtype: str, mode: str, count: int) -> tuple[Program, Any]:
    """Returns a compiled program with several seeds, and its state after the first dispatch."""
    steps = 4 if jax.default_backend() == "cpu" else 100
    config = default_config()
    config.model.name, config.dtype = "se_resnet20_cifar", dtype
    config.num_seeds, config.seed_mode = count, mode
    program = build_program(config, noise_dataset(steps * config.batch_size, 8))
    state, sums = program.train(program.initial_state(), 0, program.plan.steps_per_dispatch)
    jax.block_until_ready(sums)
    return program, state


def _speed(program: Program, state: Any) -> float:
    """Returns images per second, over all networks, in three epochs."""
    steps, dispatched = 3 * program.plan.steps_per_epoch, program.plan.steps_per_dispatch
    begun = time.perf_counter()
    for step in range(dispatched, dispatched + steps, dispatched):
        state, sums = program.train(state, step, dispatched)
    jax.block_until_ready((state, sums))
    return steps * program.images_per_step / (time.perf_counter() - begun)


def measure_startup(config: str) -> dict[str, Any]:
    """Returns the seconds from the command to the first step, with empty and with filled caches."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            "XDG_CACHE_HOME": f"{folder}/cache",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
        }
        for name in ("first start", "second start", "third start"):
            begun = time.perf_counter()
            process = subprocess.Popen(
                [
                    sys.executable,
                    *("-m", "se_flax.main", f"--config={config}", f"--workdir={folder}/{name}"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **kept},
            )
            output = []
            for line in process.stdout:
                output.append(line)
                if line.startswith("first step done"):
                    results[name] = {
                        "seconds": time.perf_counter() - begun,
                        "of_them": line.partition("done ")[2].strip(),
                    }
                    process.send_signal(signal.SIGINT)
            if process.wait() and name not in results:
                return {"not measured": "".join(output[-1:]).strip()}
    return results


def se_flax_speed(name: str, batch_size: int, devices: int = 1) -> float:
    """Returns images per second in training, on the given number of devices."""
    config = default_config()
    config.model.name, config.batch_size, config.dtype = name, batch_size, default_dtype()
    program = build_program(config, noise_dataset(batch_size, 8))
    state = program.initial_state()
    seconds = []
    for step in range(6):
        begun = time.perf_counter()
        state, metrics = program.train(state, step, 1)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - begun)
    assert jax.device_count() == devices
    return batch_size / statistics.median(seconds[2:])


def measure_scaling() -> dict[str, dict[int, float]]:
    """Returns images per second in training over batch size, depth and number of devices."""
    depths = [name for name in list_models("se_resnet*_cifar") if "164" not in name]
    results = {
        "batch size": {2**i: se_flax_speed("se_resnet20_cifar", 2**i) for i in range(11)},
        "depth": {int(re.search(r"\d+", name)[0]): se_flax_speed(name, 128) for name in depths},
    }
    results["depth"] = dict(sorted(results["depth"].items()))
    if jax.default_backend() == "cpu":
        results["virtual devices"] = {}
        for count in (1, 2, 4, 8):
            code = (
                "from experiments.speed.runs import se_flax_speed\n"
                f"print(se_flax_speed('se_resnet20_cifar', 128, {count}))"
            )
            option = f"--xla_force_host_platform_device_count={count}"
            output = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {option}"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            results["virtual devices"][count] = float(output.split()[-1])
    return results


def draw(scaling: dict[str, dict[int, float]], path: pathlib.Path) -> None:
    """Draws images per second over batch size, depth and number of devices."""
    from matplotlib.ticker import ScalarFormatter

    from se_flax.analysis.figures import COLOURS, pyplot

    figure, axes = pyplot().subplots(1, len(scaling), figsize=(4 * len(scaling), 3.2))
    for axis, (name, speeds) in zip(axes, scaling.items(), strict=True):
        axis.plot(list(speeds), list(speeds.values()), marker="o", color=COLOURS[0])
        axis.set_xlabel(name)
        axis.set_ylim(bottom=0)
        if name != "depth":
            axis.set_xscale("log", base=2)
        axis.set_xticks(list(speeds)[:: 2 if len(speeds) > 6 else 1])
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("training, images/s")
    fixed = {"batch size": "SE-ResNet-20", "depth": "SE-ResNet, batch 128"}
    for axis, name in zip(axes, scaling, strict=True):
        axis.set_title(fixed.get(name, "SE-ResNet-20, batch 128"), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
