"""What a run says of itself when it starts, and what a result depends on."""

import pathlib
import platform
import subprocess
from collections.abc import Iterator
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


def count_parameters(params: Any) -> int:
    """Returns the number of a network's parameters."""
    return int(parameter_overview.count_parameters(params))


def parameter_table(params: Any) -> str:
    """Returns a table with name, shape and size of every parameter."""
    return parameter_overview.get_parameter_overview(params, include_stats=False) + "\n"


def introduction(program: Program, params: Any, step: int, workdir: pathlib.Path) -> Iterator[str]:
    """Yields the lines that say what is about to run.

    Args:
        program: of the run.
        params: the parameters of one network, or their shapes.
        step: that the run starts or continues at.
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
    yield f"{dataset.name}: {counts} images of {height}x{width}, {dataset.num_classes} classes"
    yield (
        f"{plan.num_epochs} epochs, {plan.total_steps:,} steps of {config.batch_size} images "
        f"on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    for note in notes_on_schedule(config.schedule, config.num_epochs):
        yield f"note: {note}"
    seeds = program.networks.seeds
    if len(seeds) > 1:
        yield f"{len(seeds)} networks, of seeds {seeds[0]} to {seeds[-1]}"
    if step:
        yield f"going on from step {step} in {workdir}"
    else:
        yield f"starts from {config.init_from or 'random weights'}; results go to {workdir}"


def environment() -> dict[str, Any]:
    """Returns what a result depends on besides its config: device, versions, revision."""
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
    """Returns the commit of the source, "+" if changed since; None outside its repository."""
    root = pathlib.Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
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
