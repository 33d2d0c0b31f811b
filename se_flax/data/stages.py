"""Stages of a run: equal parts, in which the training images grow (progressive learning)."""

from typing import Any

from ml_collections import ConfigDict


def stage_at(step: int, total_steps: int, num_stages: int) -> int:
    """Returns in which of the equal parts of a run a step is; both count from 0."""
    return step * num_stages // total_steps


def first_step(stage: int, total_steps: int, num_stages: int) -> int:
    """Returns the first step of a stage."""
    return -(-stage * total_steps // num_stages)


def growing(first: float, last: float, num_stages: int) -> list[float]:
    """Returns the value of each stage, which grows linearly (arXiv:2104.00298, algorithm 1)."""
    if num_stages == 1:
        return [last]
    return [first + (last - first) * i / (num_stages - 1) for i in range(num_stages)]


def last_values(config: ConfigDict, dropout: float) -> dict[str, tuple[str, Any]]:
    """Returns by their names in `config.progressive` the fields and values of the last stage.

    The size of the training images is not among them; the crops of a data set have it.

    Args:
        config: of the run.
        dropout: dropout rate of the run's network.
    """
    return {
        "magnitude": ("augment.magnitude", config.augment.magnitude),
        "mixup": ("augment.mixup", config.augment.mixup),
        "dropout": ("model.overrides.dropout", dropout),
    }
