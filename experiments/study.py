"""What all studies share: their cells, how missing cells are run, and the files of results.

A cell is one network, trained with one recipe and several seeds. Its results are one JSON file,
`<out>/<study>/<scale>/<cell>.json`, written when the cell is finished. The run is an ordinary
training run (`se_flax.train`), and continues if it was interrupted.
"""

import dataclasses
import fnmatch
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from configs import se_resnet_cifar10
from experiments import budget
from se_flax.burden import DETECTOR_SIZE, burden
from se_flax.cli.command import INTERRUPTED, outlive_output, parse_flags, run_command
from se_flax.config import build_model
from se_flax.data import Dataset, Split, load_dataset
from se_flax.detection import FasterRCNN
from se_flax.errors import RunDiverged, UserError
from se_flax.old_configs import modernized
from se_flax.program import dataset_of_run, with_preparation
from se_flax.runtime.huge_pages import restart_with_huge_pages
from se_flax.runtime.paths import Path, to_path
from se_flax.runtime.storage import make_folder, write_json
from se_flax.train import RunInterrupted, train
from se_flax.workdir import changed_fields, config_as_json

SCALES = ("smoke", "small", "budget", "full")
SMOKE = (
    "256 images of digits, enlarged to 32x32, for 2 epochs, only to check that everything works."
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A network trained with a recipe.

    Attributes:
        name: name of its file, unique in the study.
        group: the table that it belongs to, such as a data set.
        label: label of its row in the table.
        config: config of the run, without the seeds.
        baseline: name of the cell of the network without SE.
        published: (study, data set, model) of comparable rows of `published_results.csv`.
        x: its place on the x axis of the study's chart, if any.
    """

    name: str
    group: str
    label: str
    config: ConfigDict
    baseline: str | None = None
    published: Sequence[tuple[str, str, str]] = ()
    x: float | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A table of cells.

    Attributes:
        name: name of its module and of its folder of results.
        title: title in the report.
        question: what it asks, in a sentence or two.
        cells: returns the cells of a scale.
        scales: describes each of its scales.
        x_label: label of the x axis of a chart of accuracy over `Cell.x`; empty for no such chart.
        over_size: whether to draw accuracy over parameters and multiply-adds.
    """

    name: str
    title: str
    question: str
    cells: Callable[[str], list[Cell]]
    scales: dict[str, str]
    x_label: str = ""
    over_size: bool = False


def result_path(out: str | os.PathLike[str], study: str, scale: str, cell: str) -> Path:
    """Returns the path of a cell's results."""
    return to_path(out) / study / scale / f"{cell}.json"


def read_result(path: Path) -> dict[str, Any] | None:
    """Returns a cell's results, or None if it has not been run; raises `UserError` if damaged."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; remove it to run its cell again") from error


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes a cell's results, either completely or not at all."""
    make_folder(path.parent)
    write_json(path, result, indent=1)


def smoke_dataset() -> Dataset:
    """Returns 256 training and 64 test images of digits, in the format of CIFAR."""
    digits = load_dataset("digits")

    def enlarged(split, n):
        images = np.kron(split.images[:n, ..., :1], np.ones((1, 4, 4, 3), np.uint8))
        return Split(images, split.labels[:n])

    return dataclasses.replace(
        digits,
        train=enlarged(digits.train, 256),
        test=enlarged(digits.test, 64),
        mean=digits.mean[:1] * 3,
        std=digits.std[:1] * 3,
    )


def run_study(
    study: Study,
    scale: str,
    seeds: int,
    out: str | os.PathLike[str],
    runs: str | os.PathLike[str],
    pattern: str = "*",
    note: str = "",
) -> None:
    """Runs the missing cells and seeds of a study.

    Args:
        study: the study.
        scale: one of `SCALES`.
        seeds: number of seeds that each cell is to have, counted from 0.
        out: folder of the results.
        runs: folder of checkpoints and logs.
        pattern: pattern for the names of the cells to run.
        note: sentence to keep with the results and show in the report.

    Raises:
        UserError: if the study has no such scale, no cell matches, or a cell has results of another
            config; or, after all other cells have run, if some could not be run.
        RunInterrupted: after SIGINT or SIGTERM; the next call continues from there.
    """
    check_scale(scale, study.scales, study.name)
    cells = matching(study.cells(scale), pattern, study.name)
    print(f"{study.title}, {scale}: {study.scales[scale]}", flush=True)
    failed = []
    for i, cell in enumerate(cells, start=1):
        title = f"[{i}/{len(cells)}] {cell.name}"
        missing = missing_seeds(read_cell(study, scale, cell, out), seeds)
        if not missing:
            print(f"{title}: already has {seeds} seeds", flush=True)
        for first, count in _stretches(missing):
            print(f"{title}: seeds {first} to {first + count - 1}", flush=True)
            try:
                train_seeds(study, scale, cell, first, count, out, runs, note)
            except (UserError, RunDiverged) as error:
                print(f"{title}: {error}", flush=True)
                failed.append(cell.name)
    print(f"results are in {to_path(out) / study.name / scale}", flush=True)
    if failed:
        raise UserError(f"cells that could not be finished: {', '.join(failed)}; see above")


def check_scale(scale: str, scales: Iterable[str], study: str) -> None:
    """Raises `UserError` if a study has no such scale."""
    if scale not in scales:
        raise UserError(f"{study} has no scale {scale}; it has {', '.join(scales)}")


def read_cell(study: Study, scale: str, cell: Cell, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns a cell's results, which are empty if it has not been run.

    Raises:
        UserError: if its file is damaged or holds results of another config.
    """
    path = result_path(out, study.name, scale, cell.name)
    found = read_result(path)
    if found and not same_config(found, cell):
        raise UserError(
            f"{path} holds results of another config of {cell.name}; remove it, or give "
            "another --out"
        )
    return found or {
        "study": study.name,
        "scale": scale,
        "cell": cell.name,
        "config": config_as_json(cell.config),
        "runs": [],
        "results": [],
    }


def missing_seeds(result: dict[str, Any], seeds: int) -> list[int]:
    """Returns the seeds below a number that results lack."""
    present = {each["seed"] for each in result["results"]}
    return [seed for seed in range(seeds) if seed not in present]


def train_seeds(
    study: Study,
    scale: str,
    cell: Cell,
    first: int,
    count: int,
    out: str | os.PathLike[str],
    runs: str | os.PathLike[str],
    note: str = "",
) -> dict[str, Any]:
    """Trains a cell with consecutive seeds and writes them to its results.

    Args:
        study, scale, out, runs, note: see `run_study`.
        cell: one of the study's cells.
        first: the first seed.
        count: the number of seeds.

    Returns:
        All results of the cell.

    Raises:
        UserError: if the cell, or the run's folder, has results of another config.
        RunInterrupted: after SIGINT or SIGTERM; the next call continues from there.
        RunDiverged: if the loss or the gradient is not finite.
    """
    result = read_cell(study, scale, cell, out)
    workdir = to_path(runs) / study.name / scale / cell.name / f"{first}_{count}"
    _add_run(result, cell.config, first, count, workdir, scale, note)
    write_result(result_path(out, study.name, scale, cell.name), result)
    jax.clear_caches()
    return result


def matching(cells: Sequence[Any], pattern: str, study: str) -> list[Any]:
    """Returns the cells whose names match a pattern; raises `UserError` if none does."""
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)]
    if not chosen:
        names = ", ".join(cell.name for cell in cells)
        raise UserError(f'no cell of {study} is called "{pattern}"; there are {names}')
    return chosen


def same_config(result: dict[str, Any], cell: Cell) -> bool:
    """Whether results are of a cell's config; fields added since count as their defaults."""
    stored = modernized(result["config"])
    return json.loads(stored.to_json_best_effort()) == json.loads(cell.config.to_json_best_effort())


def _stretches(seeds: list[int]) -> list[tuple[int, int]]:
    """Returns (first, count) of each stretch of consecutive seeds."""
    firsts = [seed for seed in seeds if seed - 1 not in seeds]
    ends = [seed + 1 for seed in seeds if seed + 1 not in seeds]
    return [(first, end - first) for first, end in zip(firsts, ends, strict=True)]


def _add_run(result, config, first, count, workdir, scale, note) -> None:
    config = config.copy_and_resolve_references()
    config.seed, config.num_seeds = first, count
    if changes := changed_fields(workdir, with_preparation(config, workdir)):
        raise UserError(
            f"{workdir} holds a run of another config ({changes[0]}); remove it, or give another "
            "--runs"
        )
    dataset = smoke_dataset() if scale == "smoke" else dataset_of_run(config)
    sizes = {"train": len(dataset.train), "test": len(dataset.test)}
    model = build_model(config, dataset.num_classes)
    is_a_detector = isinstance(model, FasterRCNN)
    pixels, channels = (DETECTOR_SIZE, 3) if is_a_detector else dataset.image_shape[::2]
    counted = burden(model, pixels, channels)
    summary = train(config, workdir, dataset)
    result["parameters"], result["multiply_adds"] = counted.parameters, counted.multiply_adds
    about = ("seconds", "images_per_second", "device", "platform", "device_count", "versions")
    result["runs"].append(
        {
            "seeds": list(range(first, first + count)),
            "dataset": dataset.name,
            "images": sizes,
            **{name: summary[name] for name in (*about, "git_revision")},
            "note": note,
        }
    )
    rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
    for each in summary["per_seed"]:
        mark = f"seed{each['seed']}/" if count > 1 else ""
        curve = _curve(rows, mark, summary, "AP" if is_a_detector else "top1")
        result["results"].append({**each, "curve": curve})
    result["results"].sort(key=lambda each: each["seed"])


def _curve(rows, mark: str, summary, metric: str) -> dict[str, list[float]]:
    """Returns a seed's training loss, and its loss (if any) and a metric at each evaluation."""
    split = summary["best_chosen_on"]
    train_loss = {row["step"]: row[f"train/{mark}loss"] for row in rows if "train/loss" in row}
    evaluations = [row for row in rows if f"{split}/{mark}{metric}" in row]
    curve = {
        "step": [row["step"] for row in evaluations],
        "train_loss": [round(train_loss[row["step"]], 4) for row in evaluations],
    }
    for name, digits in (("loss", 4), (metric, 3 if metric == "top1" else 5)):
        values = [row.get(f"{split}/{mark}{name}") for row in evaluations]
        if None not in values:
            curve[name] = [round(value, digits) for value in values]
    return curve


def shortened(config: ConfigDict, scale: str, epochs: int) -> ConfigDict:
    """Returns a config for a scale: unchanged if full, for `smoke_dataset`, or with fewer epochs.

    Milestones shrink in proportion.
    """
    if scale == "full":
        return config
    epochs = 2 if scale == "smoke" else epochs
    milestones = (epoch * epochs / config.num_epochs for epoch in config.schedule.milestones)
    config.schedule.milestones = tuple(milestones)
    config.num_epochs = epochs
    if scale == "smoke":
        config.dataset.name = "digits"
        config.batch_size, config.log_every_steps = 32, 8
        config.augment.horizontal_flip = False
    return config


def shallow_scales(epochs: int) -> dict[str, str]:
    """Returns the descriptions of the scales of `ablation_config`."""
    return {
        "full": "ResNet-20 on CIFAR-10 with the published recipe, 200 epochs.",
        "small": "ResNet-8, which has one unit per stage where ResNet-20 has three, on CIFAR-10 "
        f"for {epochs} epochs instead of 200. The milestones shrink in proportion, and the warm-up "
        "is a tenth of the run.",
        "budget": budget.DESCRIPTION,
        "smoke": f"ResNet-8 on {SMOKE}",
    }


def ablation_config(scale: str, se: bool, epochs: int, **overrides: Any) -> ConfigDict:
    """Returns the config of a ResNet whose SE blocks are varied.

    Args:
        scale: one of `SCALES`.
        se: whether the network has SE blocks.
        epochs: number of epochs of the small scale.
        **overrides: fields of the network and its blocks.
    """
    if scale == "budget":
        return budget.resnet20_config(se, **overrides)
    config = se_resnet_cifar10.get_config("20", se=se)
    if scale != "full":
        config.model.overrides.stage_sizes = (1, 1, 1)
        config.schedule.warmup_epochs = 0.1 * (epochs if scale == "small" else 2)
    config.model.overrides.update(overrides)
    return shortened(config, scale, epochs)


def ablation_cells(
    scale: str,
    epochs: int,
    rows: Sequence[tuple[str, str, dict[str, Any], Sequence[tuple[str, str, str]], float | None]],
) -> list[Cell]:
    """Returns the cell of the plain network and, for each row, a cell with SE blocks.

    Args:
        scale, epochs: see `ablation_config`.
        rows: (name, label, overrides, published, x) of each cell with SE blocks.
    """
    group = "CIFAR-10" if scale != "smoke" else "digits"
    network = "ResNet-20" if scale in ("budget", "full") else "ResNet-8"
    cells = [Cell("plain", group, f"{network}, no SE", ablation_config(scale, False, epochs))]
    for name, label, overrides, published, x in rows:
        config = ablation_config(scale, True, epochs, **overrides)
        cells.append(Cell(name, group, label, config, "plain", published, x))
    return cells


def define_flags(scale: str = "small") -> None:
    """Declares the options of a study's command, with the scale that it has by default."""
    flags.DEFINE_enum(
        *("scale", scale, SCALES),
        "How much to run: a quick check, about an hour, ResNet-20 for 10 epochs, or as published.",
    )
    flags.DEFINE_integer("seeds", 3, "Number of seeds per cell.", 1)
    flags.DEFINE_string(
        "out",
        "experiments/results",
        "Folder for the results; without it, those of the smoke scale go to RUNS/results.",
    )
    flags.DEFINE_string("runs", "runs/studies", "Folder for checkpoints and logs.")
    flags.DEFINE_string("cells", "*", "Cells to run: a pattern for their names.")
    flags.DEFINE_string(
        "note", "", "A sentence about the results, such as where the data came from."
    )


def results_folder() -> str:
    """Returns the folder of the options: smoke results stay out of the repository's own."""
    options = flags.FLAGS
    if options.scale == "smoke" and not options["out"].present:
        return f"{options.runs}/results"
    return options.out


def main_of(study: Study) -> None:
    """Runs a study's command."""

    def main(argv: list[str]) -> None:
        outlive_output()
        options = flags.FLAGS
        try:
            run_study(
                *(study, options.scale, options.seeds, results_folder(), options.runs),
                options.cells,
                note=options.note,
            )
        except RunInterrupted as stop:
            print(stop, file=sys.stderr)
            sys.exit(INTERRUPTED)

    restart_with_huge_pages()
    define_flags("small" if "small" in study.scales else "full")
    app.run(run_command(main), flags_parser=parse_flags)
