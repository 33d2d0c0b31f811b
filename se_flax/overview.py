"""What a run prints when it starts and ends, and the environment that its results depend on."""

import pathlib
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax
import orbax.checkpoint
from clu import parameter_overview

from se_flax.optim import notes_on_schedule
from se_flax.program import Program
from se_flax.runtime.paths import Path
from se_flax.runtime.progress import counted, format_results, format_steps
from se_flax.stages import describe_stages


def count_parameters(params: Any) -> int:
    """Returns the number of a network's parameters."""
    return int(parameter_overview.count_parameters(params))


def parameter_table(params: Any) -> str:
    """Returns a table with the name, shape and size of every parameter."""
    return parameter_overview.get_parameter_overview(params, include_stats=False) + "\n"


def introduction(program: Program, params: Any, step: int, workdir: Path) -> Iterator[str]:
    """Yields the lines that describe a run before it starts.

    Args:
        program: the run's program.
        params: the parameters of one network, or their shapes.
        step: the step at which the run starts or continues.
        workdir: the run's folder.
    """
    config, dataset, plan = program.config, program.dataset, program.plan
    sizes: dict[str, int] = {}
    for name, subtree in params.items():
        part = name.split("_")[0]
        sizes[part] = sizes.get(part, 0) + count_parameters(subtree)
    yield f"{config.model.name}, {config.dtype}, {sum(sizes.values()):,} parameters"
    for part, size in sizes.items():
        yield f"  {part:<20}{size:>12,}"
    counts = ", ".join(f"{size:,} {name}" for name, size in program.sizes.items())
    height, width = dataset.image_shape[:2]
    yield f"{dataset.name}: {counts} images of {height}x{width}, {len(dataset.class_names)} classes"
    yield from describe_stages(config, dataset, plan.total_steps)
    yield (
        f"{counted(plan.num_epochs, 'epoch')}, {counted(plan.total_steps, 'step')} of "
        f"{counted(config.batch_size, 'image')} "
        f"on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    for note in notes_on_schedule(config.schedule, config.num_epochs):
        yield f"note: {note}"
    if config.batch_size > program.sizes["train"]:
        yield (
            f"note: a batch of {config.batch_size} is larger than the training split "
            f"({program.sizes['train']:,} images) and contains images more than once; reduce "
            "config.batch_size"
        )
    seeds = program.networks.seeds
    if len(seeds) > 1:
        yield f"{len(seeds)} networks, with seeds {seeds[0]} to {seeds[-1]}"
    if step:
        yield f"continuing from step {step} in {workdir}"
    else:
        yield f"starting from {config.init_from or 'random weights'}; results go to {workdir}"


def conclusion(
    program: Program,
    final: Sequence[dict[str, float]],
    best: Sequence[dict[str, float]],
    best_steps: Sequence[int],
) -> Iterator[str]:
    """Yields the lines on the results of a complete run.

    Args:
        program: the run's program.
        final, best: results of each network on the test split, in its final and its best state.
        best_steps: step of the best state of each network.
    """
    sizes, split = program.sizes, program.selection
    chosen_on = "the same images" if split == "test" else f"{sizes[split]:,} {split} images"
    yield f"on {sizes['test']:,} test images (best step chosen on {chosen_on}):"
    final_steps = [program.plan.total_steps]
    if damaged := len(getattr(program.dataset, "damage", ())):
        yield f"  {counted(damaged, 'image')} could not be decoded since the start of this command"
    for name, steps, results in (("final", final_steps, final), ("best", best_steps, best)):
        title = f"  {name}, {format_steps(steps)}"
        yield format_results(title, results, program.dataset.num_classes)


def environment() -> dict[str, Any]:
    """Returns what a result depends on apart from its config: device, versions, revision."""
    modules = (jax, jaxlib, flax, optax, orbax.checkpoint, np)
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in modules},
        },
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """Returns the source's commit, with "+" if it was changed since; None if it is unknown.

    In the output of `git archive`, `.git_archival.txt` holds the commit.
    """
    root = pathlib.Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        archival = root / ".git_archival.txt"
        found = (
            re.search("node: ([0-9a-f]{40})", archival.read_text()) if archival.exists() else None
        )
        return found and found[1]
    try:
        output = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None
    return output.strip()
