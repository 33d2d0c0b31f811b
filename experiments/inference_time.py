"""What SE blocks cost in inference: python -m experiments.inference_time.

The plain network and the SE network are timed in turn, in one process. A cell is a network at a
batch size; `--seeds` is the number of rounds of timing.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.study import (
    check_scale,
    define_flags,
    matching,
    read_result,
    result_path,
    results_folder,
    write_result,
)
from se_flax import create_model
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.overview import environment
from se_flax.runtime.compiler import compiler_options
from se_flax.runtime.paths import Path

NAME = "inference_time"
SCALES = {
    "full": "ResNet-18, 34 and 50 on images of Tiny ImageNet's size, and ResNet-50 on ImageNet's.",
    "small": "ResNet-18 and 50 on images of Tiny ImageNet's size, batches of up to 16.",
    "smoke": "ResNet-20 on images of CIFAR's size, to check that everything works.",
}
SECONDS = {"full": 1.0, "small": 1.0, "smoke": 0.05}  # length of a round


@dataclasses.dataclass(frozen=True)
class Timing:
    """A network at a batch size.

    Attributes:
        network: name of the network, without "se_".
        title: title in the report.
        image_size: height and width, in pixels.
        batch_size: number of images.
        published: (study, data set, model) of comparable rows of `published_results.csv`.
    """

    network: str
    title: str
    image_size: int
    batch_size: int
    published: tuple[tuple[str, str, str], ...] = ()

    @property
    def name(self) -> str:
        """Name of the file of its results, without the suffix."""
        return f"{self.network}_{self.image_size}_batch{self.batch_size}"


def cells(scale: str) -> list[Timing]:
    """Returns the cells of a scale."""
    if scale == "smoke":
        return [Timing("resnet20_cifar", "ResNet-20", 32, batch) for batch in (1, 4)]
    depths = ("18", "34", "50") if scale == "full" else ("18", "50")
    batches = (1, 4, 16, 64, 256) if scale == "full" else (1, 4, 16)
    result = [
        Timing(
            f"resnet{depth}",
            f"ResNet-{depth}",
            64,
            batch,
            (("Course inference time", "tiny_imagenet", f"ResNet-{depth}"),),
        )
        for depth in depths
        for batch in batches
    ]
    if scale == "full":
        result += [Timing("resnet50", "ResNet-50", 224, batch) for batch in batches]
    return result


def forward(name: str, timing: Timing, dtype: str):
    """Returns a function that runs a network once, on images that are already on the device."""
    model = create_model(name, 200, dtype=jnp.dtype(dtype))
    shape = (timing.batch_size, timing.image_size, timing.image_size, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
    options = compiler_options() if jax.default_backend() == "cpu" else {}
    infer = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=options)
    return lambda: jax.block_until_ready(infer(variables, images))


def milliseconds(run, seconds: float) -> float:
    """Returns the mean time of run(), called for the given seconds after one untimed call."""
    run()
    begun, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - begun < seconds:
        run()
        times += 1
    return 1e3 * (time.perf_counter() - begun) / times


def run_timing(timing: Timing, scale: str, rounds: int, path: Path, note: str) -> dict[str, Any]:
    """Times the rounds of a cell that are not in its file yet; returns the results of all.

    Raises:
        UserError: if the rounds in the file were timed on another device or in another type.
    """
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    about = environment()
    run = {
        "dtype": dtype,
        **{name: about[name] for name in ("device", "platform", "device_count", "versions")},
        "git_revision": about["git_revision"],
        "note": note,
    }
    result = read_result(path) or {
        "study": NAME,
        "scale": scale,
        "cell": timing.name,
        "runs": [],
        "plain": [],
        "se": [],
    }
    for before in result["runs"]:
        if (before["device"], before["dtype"]) != (run["device"], dtype):
            raise UserError(
                f"{path} was measured on {before['device']} in {before['dtype']}, but this is "
                f"{run['device']} in {dtype}; give another --out"
            )
    first = len(result["plain"])
    if first >= rounds:
        return result
    begun = time.perf_counter()
    plain = forward(timing.network, timing, dtype)
    with_se = forward(f"se_{timing.network}", timing, dtype)
    plain(), with_se()  # compiles
    runs = result["runs"]
    for done in range(first, rounds):
        result["plain"].append(milliseconds(plain, SECONDS[scale]))
        result["se"].append(milliseconds(with_se, SECONDS[scale]))
        seconds = round(time.perf_counter() - begun, 1)
        result["runs"] = [*runs, {"seeds": list(range(first, done + 1)), "seconds": seconds, **run}]
        write_result(path, result)
    jax.clear_caches()
    return result


def main(argv: list[str]) -> None:
    """Times the missing rounds."""
    options = flags.FLAGS
    scale = options.scale
    check_scale(scale, SCALES, NAME)
    chosen = matching(cells(scale), options.cells, NAME)
    print(f"Inference time, {scale}: {SCALES[scale]}", flush=True)
    for cell in chosen:
        path = result_path(results_folder(), NAME, scale, cell.name)
        result = run_timing(cell, scale, options.seeds, path, options.note)
        plain, with_se = np.median(result["plain"]), np.median(result["se"])
        print(f"{cell.name}: {plain:.2f} ms, with SE {with_se:.2f} ms", flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
