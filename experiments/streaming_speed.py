"""How fast images are read: python -m experiments.streaming_speed --image_dir=DIR.

Measures training crops of the images in DIR/<class>/, in images per second and core. These take
turns in one run, several times each:

- plain loops that read, decode, crop and resize with OpenCV and keep nothing, one process per core
  at the same time: the upper limit;
- `se_flax.data.streaming`, in threads and in processes, one per core;
- PyTorch's DataLoader (if PyTorch is installed) over the same files with the same crops, in one
  process per core.
"""

import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
from absl import app, flags

from se_flax.cli.command import parse_flags, run_command
from se_flax.data.folders import ImageFolder
from se_flax.data.images import RandomResizedCrop, decode
from se_flax.data.streaming import train_batches
from se_flax.errors import UserError

CORES = os.cpu_count() or 1


def loop_speed(source: ImageFolder, crop: RandomResizedCrop, seconds: float) -> float:
    """Returns images per second and core of plain loops, one on each core at the same time."""
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(CORES)
    with ProcessPoolExecutor(CORES, context, _keep, (started,)) as pool:
        loops = [pool.submit(_loop, source, crop, seconds) for _ in range(CORES)]
        return statistics.mean(loop.result() for loop in loops)


def _keep(started: Any) -> None:
    global _started
    _started = started


def _loop(source: ImageFolder, crop: RandomResizedCrop, seconds: float) -> float:
    cv2.setNumThreads(0)
    draws = np.random.default_rng(0).random((1000, crop.draws)).tolist()
    _started.wait()
    start = time.perf_counter()
    for done in itertools.count(1):
        crop(decode(source[done % len(source)]["image"]), draws[done % 1000])
        if (elapsed := time.perf_counter() - start) > seconds:
            return done / elapsed


def _rate(batches, batch_size: int, seconds: float) -> float:
    iterator = iter(batches)
    for _ in range(2 * CORES):  # skip what was read ahead while the workers started
        next(iterator)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(iterator)
        done += batch_size
    return done / (time.perf_counter() - start) / CORES


def streaming_speed(
    source: ImageFolder, crop: RandomResizedCrop, batch_size: int, seconds: float, workers: int
) -> float:
    """Returns images per second and core of `se_flax.data.streaming`."""
    batches = train_batches(source, crop, batch_size, 0, 0, 10**6, workers)
    try:
        return _rate(batches, batch_size, seconds)
    finally:
        batches.close()


class _TorchFolder:
    """The same images as a dataset for a DataLoader."""

    def __init__(self, source: ImageFolder, crop: RandomResizedCrop):
        self.source, self.crop = source, crop

    def __len__(self) -> int:
        return 10**6  # so that no epoch ends while the clock runs

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        cv2.setNumThreads(0)
        record = self.source[i % len(self.source)]
        draws = np.random.default_rng(i).random(self.crop.draws).tolist()
        return self.crop(decode(record["image"]), draws), record["label"]


def torch_speed(
    source: ImageFolder, crop: RandomResizedCrop, batch_size: int, seconds: float
) -> float:
    """Returns images per second and core of PyTorch's DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _TorchFolder(source, crop), batch_size, num_workers=CORES, prefetch_factor=2
    )
    return _rate(loader, batch_size, seconds)


def main(argv: list[str]) -> None:
    """Prints a table of speeds and their ratios to the limit, and writes it as JSON."""
    options = flags.FLAGS
    if options.image_dir is None:
        raise UserError("--image_dir=DIR is missing: a folder with one folder of images per class")
    source = ImageFolder.of(options.image_dir)
    crop = RandomResizedCrop(options.size)
    batch_size, seconds = options.batch_size, options.seconds
    ways: dict[str, Callable[[], float]] = {
        "OpenCV loops": lambda: loop_speed(source, crop, seconds),
        "se_flax, threads": lambda: streaming_speed(source, crop, batch_size, seconds, 0),
        "se_flax, processes": lambda: streaming_speed(source, crop, batch_size, seconds, CORES),
    }
    try:
        import torch

        torch_version = torch.__version__
        ways["PyTorch DataLoader"] = lambda: torch_speed(source, crop, batch_size, seconds)
    except ImportError:
        torch_version = None
    rates = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, measure in ways.items():
            rates[name].append(measure())
    limit = statistics.median(rates["OpenCV loops"])
    kilobytes = statistics.mean(path.stat().st_size for path in source.paths) / 1000
    print(
        f"{len(source)} images of {kilobytes:.0f} kB, crops of {options.size}, {CORES} cores, "
        f"{options.repeats} rounds of {seconds} s"
    )
    print(f"{'':<22}{'of the limit':>13}{'images/s, core':>17}{'lowest':>8}{'highest':>8}")
    for name, values in rates.items():
        median = statistics.median(values)
        share, least, most = median / limit, min(values), max(values)
        print(f"{name:<22}{share:>13.2f}{median:>17.0f}{least:>8.0f}{most:>8.0f}")
    if options.out:
        result = {
            "images": len(source),
            "mean_kilobytes": round(kilobytes, 1),
            "size": options.size,
            "cores": CORES,
            "opencv": cv2.__version__,
            "torch": torch_version,
            "images_per_second_and_core": {
                name: [round(value, 1) for value in values] for name, values in rates.items()
            },
        }
        pathlib.Path(options.out).write_text(json.dumps(result, indent=2) + "\n")


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("image_dir", None, "Folder with one folder of images per class.")
    flags.DEFINE_integer("size", 224, "Height and width of the crops.", 1)
    flags.DEFINE_integer("batch_size", 64, "Images in a batch.", 1)
    flags.DEFINE_float("seconds", 5.0, "Seconds per measurement.", 0.1)
    flags.DEFINE_integer("repeats", 5, "Number of rounds.", 1)
    flags.DEFINE_string("out", "", "JSON file to write.")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
