"""Speed of the networks compared with other implementations: python -m experiments.speed.

Measures a training step and inference of ResNet-20, ResNet-50 and EfficientNet-B0, with SE blocks
and without. These implementations take turns in one process, several times each:

- se_flax;
- the same networks built from Flax's own layers (`experiments/peers/stock_flax.py`);
- PyTorch, eager and compiled, in channels-last memory: a ResNet-20 of this project
  (`experiments/peers/pytorch.py`), and timm's networks for the others.

A training step is forward, backward and an SGD update, on images that are already on the device.
Then it compares a whole training run with its bare steps, and measures the time from the command to
the first step, and images per second over batch size, depth and number of devices. Results go to
speed_<platform>.json, .md and .png in --out.
"""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import io
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments.peers import stock_flax
from se_flax import create_model, list_models
from se_flax.burden import burden
from se_flax.cli.command import parse_flags, run_command
from se_flax.config import build_model, default_config
from se_flax.data import Dataset, Split
from se_flax.data.preprocessing import Batch
from se_flax.errors import UserError
from se_flax.models import model_info
from se_flax.optim import make_optimizer
from se_flax.overview import environment
from se_flax.parallel import AXIS, replicate
from se_flax.program import build_program
from se_flax.runtime.compiler import compiler_options
from se_flax.state import create_state
from se_flax.step import make_train_step
from se_flax.train import train

SECTIONS = ("steps", "loop", "startup", "scaling")
GROUPS = (
    ("resnet20_cifar", "se_resnet20_cifar"),
    ("resnet50", "se_resnet50"),
    ("efficientnet_b0",),
)
NETWORKS = [name for group in GROUPS for name in group]
STARTUP_CONFIG = "configs/se_resnet_cifar10.py:20"


@dataclasses.dataclass
class Contender:
    """An implementation of a network, ready to be timed.

    Attributes:
        name, network, mode, batch_size: what it is.
        run: does the work once, and waits for it.
        first_seconds: time to build it and run it once, including compilation.
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
        run = IMPLEMENTATIONS[name](network, mode, batch_size, _dtype())
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
        self.seconds.append((time.perf_counter() - begun) / times)

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


def _images(name: str, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    info = model_info(name)
    generator = np.random.default_rng(0)
    size = info.input_size
    images = generator.normal(size=(batch_size, size, size, 3)).astype(np.float32)
    return images, generator.integers(0, info.num_classes, batch_size)


def se_flax_work(name: str, mode: str, batch_size: int, dtype: str) -> Callable[[], None]:
    """Returns a step of `se_flax.step` on one device, or inference."""
    images, labels = _images(name, batch_size)
    config = default_config()
    config.model.name, config.batch_size, config.dtype = name, batch_size, dtype
    model = build_model(config, model_info(name).num_classes, None)
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    state = jax.jit(lambda: create_state(model, optimizer, images.shape[1:], 0, False))()
    if mode == "inference":
        apply = functools.partial(model.apply, train=False)
        return _inference(apply, state.variables, images, **_our_options())
    step = jax.pmap(
        make_train_step(model, optimizer),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=jax.devices()[:1],
    )
    batch = Batch(*map(jnp.asarray, (images[None], labels[None], np.ones((1, batch_size), bool))))
    state = replicate(state)
    return _training(step.lower(state, batch).compile(**_our_options()), state, batch)


def stock_flax_work(name: str, mode: str, batch_size: int, dtype: str) -> Callable[[], None]:
    """Returns a step of an ordinary training loop, or inference."""
    images, labels = _images(name, batch_size)
    model = stock_flax.NETWORKS[name](jnp.dtype(dtype))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], False))()
    if mode == "inference":
        return _inference(functools.partial(model.apply, train=False), variables, images)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, 0.9))

    def loss_of(params, batch_stats, images, labels):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"]
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(loss), updated["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, batch_stats, opt_state = state
        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, batch_stats, *batch
        )
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    params, batch_stats = variables["params"], variables["batch_stats"]
    batch = jax.device_put((images, labels))
    return _training(step, (params, batch_stats, optimizer.init(params)), batch)


def _our_options() -> dict[str, Any]:
    return {"compiler_options": compiler_options() if jax.default_backend() == "cpu" else {}}


def _inference(apply, variables, images, **options):
    infer, images = jax.jit(apply, **options), jnp.asarray(images)
    return lambda: jax.block_until_ready(infer(variables, images))


def _training(step, state, batch):
    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def pytorch_work(
    name: str, mode: str, batch_size: int, dtype: str, compiled: bool
) -> Callable[[], None]:
    """Returns a training step or inference in PyTorch."""
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the first run must compile
    import torch

    from experiments.peers import pytorch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    model = pytorch.network(name).to(device)
    model.train(mode == "training")
    images, labels = _images(name, batch_size)
    images = torch.tensor(images, device=device).permute(0, 3, 1, 2)  # channels last in memory
    labels = torch.tensor(labels, device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    forward = torch.compile(model) if compiled else model
    cast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def run():
        if mode == "training":
            optimizer.zero_grad(set_to_none=True)
            with cast:
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
        else:
            with torch.inference_mode(), cast:
                forward(images)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


IMPLEMENTATIONS: dict[str, Callable[..., Callable[[], None]]] = {
    "se_flax": se_flax_work,
    "stock Flax": stock_flax_work,
    "PyTorch": functools.partial(pytorch_work, compiled=False),
    "PyTorch compiled": functools.partial(pytorch_work, compiled=True),
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
    dtype = _dtype()
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


def _dtype() -> str:
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def batch_sizes(name: str, mode: str) -> tuple[int, ...]:
    """Returns the batch sizes to measure."""
    if "cifar" in name:
        return (128,) if mode == "training" else (1, 128)
    training = 16 if jax.default_backend() == "cpu" else 128
    return (training,) if mode == "training" else (1, training)


def measure_steps(
    names: list[str], implementations: list[str], rounds: int, seconds: float
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """Yields rows and failures for each group, mode and batch size."""
    limit = limits()["matrix_product_gflops"]
    for group in GROUPS:
        group = [name for name in group if name in names]
        macs = {name: burden(create_model(name), model_info(name).input_size) for name in group}
        for mode in ("training", "inference"):
            for batch_size in batch_sizes(group[0], mode) if group else ():
                contenders, missing = [], []
                for implementation in implementations:
                    for name in group:  # plain and SE in a row
                        try:
                            contender = Contender.ready(implementation, name, mode, batch_size)
                        except Exception as error:  # a library is missing or fails
                            missing.append(f"{implementation}, {name}, {mode}: {error!r:.200}")
                            continue
                        contenders.append(contender)
                for _ in range(rounds):
                    for contender in contenders:
                        contender.measure(seconds)
                yield [c.row(macs[c.network].multiply_adds, limit) for c in contenders], missing
                del contenders
                jax.clear_caches()
                gc.collect()


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
    config.model.name, config.num_epochs, config.dtype = "se_resnet20_cifar", 1, _dtype()
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
    config.model.name, config.batch_size, config.dtype = name, batch_size, _dtype()
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
                "from experiments.speed import se_flax_speed\n"
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
        compared, of_rounds = ratios(rows), ratios_of_rounds(rows)
        others = [name for name in IMPLEMENTATIONS if name != "se_flax"]
        lines += ["", "## Speed-up of se_flax over", ""]
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
        lines += [
            "",
            "## Measured",
            "",
            f"Limits: {results['limits']['matrix_product_gflops']:.0f} GFLOP/s in a matrix "
            f"product, {results['limits']['copy_gb_per_second']:.1f} GB/s in a copy. Share: speed "
            "of the multiply-adds (a training step has three times those of inference) relative to "
            "the matrix product.",
            "",
            "| network | mode | batch | implementation | ms (fastest to slowest) | images/s | "
            "share | first run, s | working memory, MB |",
            "|---" * 9 + "|",
        ]
        lines += [
            f"| {row['network']} | {row['mode']} | {row['batch_size']} | {row['implementation']} | "
            f"{row['milliseconds']:.1f} ({row['fastest']:.1f} to {row['slowest']:.1f}) | "
            f"{row['images_per_second']:.1f} | {row['share_of_matrix_product']:.0%} | "
            f"{row['first_seconds']:.1f} | "
            f"{'-' if row['working_mb'] is None else round(row['working_mb'])} |"
            for row in rows
        ]
        if results["not_measured"]:
            lines += ["", "Not measured:", "", *(f"- {line}" for line in results["not_measured"])]
    if loop := results.get("loop"):
        lines += [
            "",
            "## A run compared with its bare steps",
            "",
            f"SE-ResNet-20, batch 128: {statistics.median(loop['images_per_second']['run']):.0f} "
            f"images/s in a run, {statistics.median(loop['images_per_second']['step']):.0f} in its "
            f"bare steps: {loop['ratio']:.1%}.",
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
    return "\n".join(lines) + "\n"


def _median_and_quartiles(values: list[float]) -> str:
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.1%} ({low:.1%} to {high:.1%})"


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


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("out", "experiments/results", "Folder for the results.")
    flags.DEFINE_multi_enum("section", SECTIONS, SECTIONS, "What to measure; may be repeated.")
    flags.DEFINE_list("networks", NETWORKS, "Networks to measure; replaces their earlier results.")
    flags.DEFINE_list("implementations", list(IMPLEMENTATIONS), "Implementations to measure.")
    flags.DEFINE_integer("rounds", 7, "Number of rounds.", 1)
    flags.DEFINE_float("seconds", 1.0, "Seconds per measurement in a round.", 0)


def main(argv: list[str]) -> None:
    """Measures, prints and writes the results."""
    options = flags.FLAGS
    for name, known in (("networks", NETWORKS), ("implementations", IMPLEMENTATIONS)):
        for value in options[name].value:
            if value not in known:
                raise UserError(f'--{name}: there is no "{value}"; known are {", ".join(known)}')
    if len(options.section) > 1:  # each in its own process, because XLA's options differ
        given = {name: options[name].value for name in ("out", "rounds", "seconds")}
        given |= {name: ",".join(options[name].value) for name in ("networks", "implementations")}
        for section in options.section:
            command = [sys.executable, "-m", "experiments.speed", f"--section={section}"]
            command += [f"--{name}={value}" for name, value in given.items()]
            if status := subprocess.run(command, check=False).returncode:
                sys.exit(status)
        return
    (section,) = options.section
    jax.config.update("jax_enable_compilation_cache", False)  # the first run must compile
    if section == "steps":  # others must not be compiled with our options
        flags_of_xla = os.environ.get("XLA_FLAGS", "")
        for option, value in compiler_options().items():
            os.environ["XLA_FLAGS"] = flags_of_xla.replace(f"--{option}={value}", "")
    platform = jax.default_backend()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"speed_{platform}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    about = {"environment": environment(), "dtype": _dtype(), "cores": os.cpu_count()}
    for name, value in about.items():
        before, now = results.get(name, value), value
        if name == "environment":
            before, now = ({**each, "git_revision": None} for each in (before, now))
        if before != now:
            raise UserError(
                f"{path} was measured on another machine or version; give another --out"
            )
    results |= about
    results.setdefault("revisions", {})[section] = about["environment"]["git_revision"]
    if section == "steps":
        results["limits"] = limits()
        results["steps"] = [
            row for row in results.get("steps", ()) if row["network"] not in options.networks
        ]
        results["not_measured"] = [
            line
            for line in results.get("not_measured", ())
            if line.split(", ")[1] not in options.networks
        ]
        for rows, missing in measure_steps(
            options.networks, options.implementations, options.rounds, options.seconds
        ):
            results["steps"] += rows
            results["not_measured"] += missing
            for name, value in ratios(rows).items():
                print(f"{name}: {value:.2f}", flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
    elif section == "loop":
        results["loop"] = measure_loop(options.rounds)
        print(f"a run compared with its bare steps: {results['loop']['ratio']:.3f}", flush=True)
    elif section == "startup":
        results["startup"] = measure_startup(STARTUP_CONFIG)
        print(results["startup"], flush=True)
    else:
        results["scaling"] = measure_scaling()
        results["figure"] = f"speed_{platform}.png"
        draw(results["scaling"], out / results["figure"])
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))
    print(f"\n{markdown(results)}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
