"""Whether an accelerator computes what a CPU does: python -m experiments.accelerator_checks.

Compares logits, and the losses of a training run, with those that the same machine's CPU computes.
Then it trains the quickstart several times: twice undisturbed, and once stopped and continued, and
says whether the runs end in the same bits. Results go to accelerator_<platform>.json in --out.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from se_flax import create_model, load_run
from se_flax.cli.command import INTERRUPTED, parse_flags, run_command
from se_flax.models import model_info
from se_flax.overview import environment

NETWORKS = [
    "resnet20_cifar",
    "se_resnet20_cifar",
    "se_resnet50",
    "se_resnext50_32x4d",
    "se_inception_v3",
    "se_bn_inception",
    "vgg16_bn",
    "efficientnet_b0",
]
PRECISIONS = ("highest", "default")
STEPS = 20
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def deviation(ours: Any, reference: Any) -> float:
    """Returns the largest difference in a tree of arrays, relative to the largest value."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(a, np.float64) - b)) / max(np.max(np.abs(b)), 1e-30))
        for a, b in pairs
    )


def compare_logits(name: str) -> dict[str, Any]:
    """Returns how far the logits of a network with random weights are from those of the CPU."""
    info = model_info(name)
    model, cpu = create_model(name, info.num_classes), jax.devices("cpu")[0]
    size = info.input_size
    images = np.random.default_rng(0).normal(size=(4, size, size, 3)).astype(np.float32)
    with jax.default_device(cpu):
        variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
        variables = jax.device_get(variables)
        reference = np.asarray(jax.jit(model.apply)(variables, images))
    result = {"network": name}
    for precision in PRECISIONS:
        with jax.default_matmul_precision(precision):
            result[precision] = deviation(jax.jit(model.apply)(variables, images), reference)
    return result


def compare_training() -> dict[str, Any]:
    """Returns the losses of SGD on one batch with SE-ResNet-20, on the CPU and here.

    The batch is the same in all steps, so that the loss falls.
    """
    model = create_model("se_resnet20_cifar", 10)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(128, 32, 32, 3)).astype(np.float32)
    labels = generator.integers(0, 10, 128)

    def loss_of(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return jnp.mean(losses), updated["batch_stats"]

    @jax.jit
    def step(variables):
        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(*variables)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables[0], gradients)
        return (params, batch_stats), loss, gradients

    with jax.default_device(jax.devices("cpu")[0]):
        variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
        start = jax.device_get((variables["params"], variables["batch_stats"]))
        expected, gradients = _train(step, start)
    result: dict[str, Any] = {"cpu": expected}
    for precision in PRECISIONS:
        with jax.default_matmul_precision(precision):
            result[precision], ours = _train(step, start)
        result[f"{precision}, first gradient"] = deviation(ours, gradients)
    return result


def _train(step, variables) -> tuple[list[float], Any]:
    """Returns the losses of some steps, and the gradient of the first one."""
    losses, first = [], None
    for _ in range(STEPS):
        variables, loss, gradients = step(variables)
        losses.append(float(loss))
        first = jax.device_get(gradients) if first is None else first
    return losses, first


def _quickstart(workdir: pathlib.Path, xla_flags: str, stop: bool = False) -> float:
    """Trains the quickstart; `stop` interrupts it once and continues it. Returns the seconds."""
    command = [sys.executable, "-m", "se_flax.main", "--config=quickstart"]
    command += [f"--workdir={workdir}", "--config.steps_per_dispatch=11"]
    given = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    kept = {**os.environ, "XLA_FLAGS": given, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    begun, output = time.monotonic(), []
    process = subprocess.Popen(
        command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        output.append(line)
        if stop and line.startswith("epoch"):
            process.send_signal(signal.SIGINT)
            stop = False
    if (status := process.wait()) == INTERRUPTED:
        again = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
        status, output = again.returncode, [again.stdout, again.stderr]
    if status:
        raise RuntimeError("".join(output[-5:]))
    return time.monotonic() - begun


def same_bits(workdirs: Sequence[pathlib.Path]) -> bool:
    """Whether runs ended in the same parameters and statistics, bit for bit."""
    first, *others = (load_run(workdir, "latest").variables for workdir in workdirs)
    return all(
        np.array_equal(a, b)
        for other in others
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    )


def compare_runs() -> dict[str, Any]:
    """Returns whether runs that should be the same end in the same bits."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, xla_flags in (("default", ""), ("deterministic", DETERMINISTIC)):
            if xla_flags and jax.default_backend() != "gpu":
                continue
            first, second, stopped = (
                pathlib.Path(folder, f"{name}_{each}") for each in ("first", "second", "stopped")
            )
            seconds = [_quickstart(first, xla_flags)]
            with futures.ThreadPoolExecutor(2) as pool:  # with the programs of the first
                others = (
                    pool.submit(_quickstart, second, xla_flags),
                    pool.submit(_quickstart, stopped, xla_flags, stop=True),
                )
                seconds += [each.result() for each in others]
            results[name] = {
                "seconds": [round(each, 1) for each in seconds],
                "twice": same_bits([first, second]),
                "stopped and continued": same_bits([first, stopped]),
                "top1": json.loads((first / "summary.json").read_text())["final"]["top1"],
            }
    return results


def page(results: dict[str, Any]) -> str:
    """Returns the results as a page."""
    machine, training = results["environment"], results["training"]
    lines = [
        f"# Correctness on {machine['platform'].upper()}",
        "",
        f"On {machine['device_count']} x {machine['device']}, JAX {machine['versions']['jax']}, "
        f"revision {(machine['git_revision'] or 'unknown')[:10]}; made by "
        "`python -m experiments.accelerator_checks`. A deviation is the largest difference from "
        "what the same machine's CPU computes in float32, relative to the largest value. "
        '"Highest" and "default" are values of `jax.default_matmul_precision`; by default, GPUs '
        "and TPUs round the factors of a product to fewer bits.",
        "",
        "| deviation of the logits of 4 images | highest | default |",
        "|---" * 3 + "|",
        *(
            f"| {row['network']} | {row['highest']:.1e} | {row['default']:.1e} |"
            for row in results["logits"]
        ),
        "| deviation of the first gradient, SE-ResNet-20 | "
        f"{training['highest, first gradient']:.1e} | {training['default, first gradient']:.1e} |",
        "",
        f"| {STEPS} steps of SGD on one batch, SE-ResNet-20 | first loss | last loss |",
        "|---" * 3 + "|",
        *(
            f"| {name} | {training[name][0]:.6f} | {training[name][-1]:.6f} |"
            for name in ("cpu", *PRECISIONS)
        ),
        "",
        "| quickstart | the same bits twice | the same bits if stopped and continued | top-1, % |",
        "|---" * 4 + "|",
        *(
            f"| {DETERMINISTIC if name == 'deterministic' else 'default options of XLA'} | "
            f"{'yes' if row['twice'] else 'no'} | "
            f"{'yes' if row['stopped and continued'] else 'no'} | {row['top1']:.2f} |"
            for name, row in results["runs"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Compares, prints and writes the results."""
    out = pathlib.Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    results = {
        "environment": environment(),
        "logits": [compare_logits(name) for name in flags.FLAGS.networks],
        "training": compare_training(),
        "runs": compare_runs(),
    }
    path = out / f"accelerator_{jax.default_backend()}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    flags.DEFINE_string("out", "experiments/results", "Folder for the results.")
    flags.DEFINE_list("networks", NETWORKS, "Networks whose logits are compared.")
    app.run(run_command(main), flags_parser=parse_flags)
