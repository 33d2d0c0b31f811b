"""Reads the results of cells, and compares them seed by seed."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.stats

from experiments.study import Study, read_result, result_path, same_config
from se_flax.runtime.paths import Path


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over n seeds with its 95% confidence interval; `low` and `high` are None if n is 1."""

    mean: float
    low: float | None
    high: float | None
    n: int = 1

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval; equal values for all seeds say nothing about the noise."""
        return self.low is not None and self.low < self.high

    @property
    def p_value(self) -> float:
        """The probability of a mean as far from 0 if there is no difference (Student's t)."""
        if not self.has_interval:
            return 1.0
        degrees = self.n - 1
        t = abs(self.mean) / (self.high - self.mean) * scipy.stats.t.ppf(0.975, degrees)
        return float(2 * scipy.stats.t.sf(t, degrees))

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0, or there is none."""
        return not self.has_interval or self.low <= 0 <= self.high


def paired_difference(ours: dict[int, float], baseline: dict[int, float]) -> Interval | None:
    """Returns the mean of (ours - baseline) over the seeds of both; None if they share no seed.

    The interval is mean -+ t s / sqrt(n), where s is the standard deviation of the n differences,
    and t the 97.5% quantile of Student's distribution with n - 1 degrees of freedom.
    """
    shared = sorted(ours.keys() & baseline.keys())
    if not shared:
        return None
    differences = np.array([ours[seed] - baseline[seed] for seed in shared])
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Interval(mean, None, None)
    half = scipy.stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return Interval(mean, mean - float(half), mean + float(half), n)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Returns "mean ± standard deviation", or the value if there is only one."""
    values = np.array(list(values))
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def difference_text(difference: Interval | None) -> str:
    """Returns a difference and its interval as text."""
    if difference is None:
        return "-"
    if difference.low is None:
        return f"{difference.mean:+.2f} (one seed)"
    if difference.low == difference.high:
        return f"{difference.mean:+.2f} (the same for all seeds)"
    text = f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
    return text + noise_text(difference)


def noise_text(difference: Interval) -> str:
    """Returns what follows a difference whose interval contains 0; nothing after others."""
    return ", within the noise" if difference.has_interval and difference.within_noise else ""


def results_of(study: Study, scale: str, out: Path) -> dict[str, Any]:
    """Returns the results of each cell by name; None for a cell that has not been run."""
    results = {}
    for cell in study.cells(scale):
        path = result_path(out, study.name, scale, cell.name)
        results[cell.name] = read_result(path)
        if results[cell.name] and not same_config(results[cell.name], cell):
            print(f"left out, because it is the result of another config: {path}")
            results[cell.name] = None
    return results


def top1_of(result: dict[str, Any] | None) -> dict[int, float]:
    """Returns the final top-1 accuracy by seed."""
    return {each["seed"]: each["final"]["top1"] for each in result["results"]} if result else {}


def revisions_of(result: dict[str, Any] | None) -> dict[int, str]:
    """Returns the revision of the code that each seed was trained with."""
    runs = result["runs"] if result else ()
    return {seed: run["git_revision"] for run in runs for seed in run["seeds"]}
