"""All studies in the background, over days: python -m experiments.queue --scale=budget.

The queue trains the missing cells and seeds of all studies at the lowest priority: the first seed
of every cell, then the second, and so on, so that early reports have every cell. It can be stopped
(Ctrl-C, SIGTERM) and started again at any moment. A network that several studies have with the same
config is trained once, and its results are copied. `--list` shows what is done, what is next, and
how long the rest will take. `<out>/queue_<scale>.jsonl` is a log of all runs.
"""

import contextlib
import dataclasses
import datetime
import fnmatch
import functools
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
import jax
from absl import app, flags

from experiments import (
    attention,
    backbones,
    excitation_operator,
    no_squeeze,
    placement,
    ratio,
    squeeze_operator,
    stage,
    variants,
)
from experiments.processes import in_processes, lower_priority, redirect_output
from experiments.study import (
    Cell,
    Study,
    define_flags,
    missing_seeds,
    read_cell,
    result_path,
    results_folder,
    train_seeds,
    write_result,
)
from se_flax.cli.command import INTERRUPTED, outlive_output, parse_flags, run_command
from se_flax.errors import RunDiverged, UserError
from se_flax.overview import environment
from se_flax.runtime.huge_pages import restart_with_huge_pages
from se_flax.runtime.interrupts import Interrupt
from se_flax.runtime.lock import BucketLock
from se_flax.runtime.paths import is_in_bucket, to_path
from se_flax.runtime.storage import make_folder, open_to_append
from se_flax.train import RunInterrupted
from se_flax.workdir import config_as_json

# Studies, and patterns for the names of their cells, in order of what they teach.
ORDER = (
    (backbones.STUDY, "cifar10_resnet20*"),
    (placement.STUDY, "*"),
    (stage.STUDY, "*"),
    (squeeze_operator.STUDY, "*"),
    (excitation_operator.STUDY, "*"),
    (no_squeeze.STUDY, "*"),
    (ratio.STUDY, "*"),
    (variants.STUDY, "*"),
    (backbones.STUDY, "*"),
    (attention.STUDY, "*"),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A cell of a study.

    Attributes:
        study: the study.
        cell: one of its cells.
        config: the cell's config as text, the same for cells that are the same network and recipe.
    """

    study: Study
    cell: Cell
    config: str

    @property
    def name(self) -> str:
        """Its name in all studies."""
        return f"{self.study.name}/{self.cell.name}"

    @property
    def backbone(self) -> str:
        """The network's name, without "se_"."""
        return self.cell.config.model.name.removeprefix("se_")


def entries(scale: str) -> list[Entry]:
    """Returns the cells of all studies that have a scale, in the queue's order."""
    found = {}
    for study, pattern in ORDER:
        for cell in study.cells(scale) if scale in study.scales else ():
            if fnmatch.fnmatch(cell.name, pattern):
                config = json.dumps(config_as_json(cell.config), sort_keys=True)
                found.setdefault((study.name, cell.name), Entry(study, cell, config))
    return list(found.values())


class Queue:
    """The cells to run at a scale, and their results.

    Args:
        scale: one of `experiments.study.SCALES`.
        seeds: number of seeds that each cell is to have, counted from 0.
        out: folder of the results.
        studies: pattern for the names of the studies to run.
        cells: pattern for the names of the cells to run.

    Raises:
        UserError: if no study or no cell matches.
    """

    def __init__(
        self,
        scale: str,
        seeds: int,
        out: str | os.PathLike[str],
        studies: str = "*",
        cells: str = "*",
    ):
        self.scale, self.seeds, self.out = scale, seeds, to_path(out)
        self._all = entries(scale)
        names = list(dict.fromkeys(entry.study.name for entry in self._all))
        if not fnmatch.filter(names, studies):
            raise UserError(
                f'no study with the scale {scale} is called "{studies}"; there are '
                f"{', '.join(names)}"
            )
        of_studies = [each for each in self._all if fnmatch.fnmatch(each.study.name, studies)]
        self.entries = [each for each in of_studies if fnmatch.fnmatch(each.cell.name, cells)]
        if not self.entries:
            raise UserError(
                f'no cell of these studies is called "{cells}"; there are '
                f"{', '.join(entry.name for entry in of_studies)}"
            )
        self.log = self.out / f"queue_{scale}.jsonl"

    def read(self, entry: Entry) -> dict[str, Any]:
        """Returns the results of a cell; see `read_cell`."""
        return read_cell(entry.study, self.scale, entry.cell, self.out)

    def missing(self) -> list[tuple[int, Entry]]:
        """Returns what is to be trained, seed by seed; cells with the same config count once."""
        done = {(entry.config, seed) for entry in self._all for seed in self._present(entry)}
        jobs = {}
        for seed in range(self.seeds):
            for entry in self.entries:
                if (entry.config, seed) not in done:
                    jobs.setdefault((entry.config, seed), (seed, entry))
        return list(jobs.values())

    def _present(self, entry: Entry) -> list[int]:
        return [each["seed"] for each in self.read(entry)["results"]]

    def share(self) -> None:
        """Copies results to the chosen cells that lack them from cells with the same config."""
        for entry in self.entries:
            result = self.read(entry)
            missing = set(missing_seeds(result, self.seeds))
            copied: set[int] = set()
            for other in self._alike(entry) if missing else ():
                copied |= _copy(result, self.read(other), other.name, missing - copied)
            if copied:
                path = result_path(self.out, entry.study.name, self.scale, entry.cell.name)
                write_result(path, result)

    def _alike(self, entry: Entry) -> list[Entry]:
        """Returns the cells of all studies with a cell's config, itself included."""
        return [other for other in self._all if other.config == entry.config]

    def expected_seconds(self, jobs: Sequence[tuple[int, Entry]]) -> float | None:
        """Returns the time that jobs will take, from finished runs on this device; None if none.

        A job takes the mean time of runs of the same cell; if there are none, of the same backbone;
        else of all.
        """
        measured, here = [], jax.devices()[0].device_kind
        for entry in self._all:
            for run in self.read(entry)["runs"]:
                if "copied_from" not in run and run.get("device", here) == here:
                    measured.append((entry, run["seconds"] / len(run["seeds"])))
        if not measured:
            return None
        total = 0.0
        for _, entry in jobs:
            alike = [seconds for other, seconds in measured if other.config == entry.config]
            alike = alike or [
                seconds for other, seconds in measured if other.backbone == entry.backbone
            ]
            total += statistics.mean(alike or [seconds for _, seconds in measured])
        return total

    def table(self) -> list[str]:
        """Returns lines that show each cell's accuracies, what is next, and the time it takes."""
        jobs, failed = self.missing(), self._failed()
        lines = ["  ".join(f"seed {seed:<2}" for seed in range(self.seeds))]
        firsts: dict[str, Entry] = {}
        for entry in self.entries:
            firsts.setdefault(entry.config, entry)
        for entry in firsts.values():
            top1 = {
                each["seed"]: f"{each['final']['top1']:.2f}"
                for other in self._alike(entry)
                for each in self.read(other)["results"]
            }
            unknown = {seed: "failed" for name, seed in failed if name == entry.name}
            columns = [{**unknown, **top1}.get(seed, "-") for seed in range(self.seeds)]
            names = [other.name for other in self.entries if other.config == entry.config]
            lines.append("  ".join([*(f"{text:<7}" for text in columns), ", ".join(names)]))
        total = self.seeds * len(firsts)
        lines.append(f"{total - len(jobs)} of {total} runs finished{self._rest(jobs)}")
        untried = [(seed, entry) for seed, entry in jobs if (entry.name, seed) not in failed]
        for seed, entry in (untried or jobs)[:1]:
            lines.append(f"next: {entry.name}, seed {seed}")
        return lines

    def _rest(self, jobs: Sequence[tuple[int, Entry]], processes: int = 1) -> str:
        """Returns how long jobs will take, as the end of a sentence."""
        if not jobs:
            return ""
        seconds = self.expected_seconds(jobs)
        return "" if seconds is None else f"; the rest takes about {_duration(seconds / processes)}"

    def _last_rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Returns the last row of the log for each cell and seed."""
        rows = self.log.read_text().splitlines() if self.log.exists() else []
        return {(row["cell"], row["seed"]): row for row in map(json.loads, rows)}

    def _failed(self) -> set[tuple[str, int]]:
        """Returns name and seed of the runs whose last row in the log says that they failed."""
        return {run for run, row in self._last_rows().items() if row["outcome"] == "failed"}

    def run(self, runs: str | os.PathLike[str], note: str = "", processes: int = 1) -> None:
        """Trains what is missing.

        Args:
            runs: folder of checkpoints and logs.
            note: sentence to keep with the results and show in the report.
            processes: how many runs to train at the same time. If it is more than one, each run
                has a process of its own, which prints to `<runs>/output/<cell>_<seed>.txt`.

        Raises:
            UserError: if another queue is running; or, after all other runs, if some failed.
            RunInterrupted: after SIGINT or SIGTERM; the next call continues from there.
        """
        make_folder(self.out)
        failed = []
        with self._alone(), Interrupt() as interrupt:
            self.share()
            jobs = self.missing()
            rest = list(jobs)
            trained = (
                self._in_turn if processes == 1 else functools.partial(self._at_once, processes)
            )
            for seed, entry, row in trained(jobs, runs, note, interrupt):
                rest.remove((seed, entry))
                title = f"[{len(jobs) - len(rest)}/{len(jobs)}] {entry.name}, seed {seed}"
                if row["outcome"] == "failed":
                    print(f"{title}: {row['reason']}", flush=True)
                    failed.append(f"{entry.name}, seed {seed}")
                    continue
                self.share()
                print(
                    f"{title}: top-1 {row['top1']:.2f} in {_duration(row['seconds'])}"
                    f"{self._rest(rest, processes)}",
                    flush=True,
                )
            if rest:
                raise RunInterrupted("stopped; the same command continues from there")
        if failed:
            names = "; ".join(failed)
            raise UserError(f"runs that could not be finished: {names}; {self.log} says why")

    def _in_turn(self, jobs, runs, note, interrupt) -> Iterator[tuple[int, Entry, dict[str, Any]]]:
        """Trains one job after the other; yields seed, cell and row of the log of each."""
        for i, (seed, entry) in enumerate(jobs, start=1):
            if interrupt.requested:
                return
            print(f"[{i}/{len(jobs)}] {entry.name}, seed {seed}", flush=True)
            yield seed, entry, self.train(seed, entry, runs, note)

    def _at_once(
        self, processes, jobs, runs, note, interrupt
    ) -> Iterator[tuple[int, Entry, dict[str, Any]]]:
        """Trains jobs in processes of their own; yields seed, cell and row of the log of each."""
        entries = {entry.name: entry for entry in self.entries}
        ended = in_processes(
            [
                Job(self.scale, str(self.out), entry.name, seed, str(runs), note)
                for seed, entry in jobs
            ],
            do_job,
            lambda job: job.name,
            processes,
            lambda: interrupt.requested,
        )
        for job, status in ended:
            row = self._last_rows().get((job.name, job.seed), {"outcome": "stopped"})
            if row["outcome"] == "stopped":
                if interrupt.requested:
                    continue
                row |= {"outcome": "failed", "reason": f"its process ended with status {status}"}
            yield job.seed, entries[job.name], row

    def train(self, seed: int, entry: Entry, runs, note: str) -> dict[str, Any]:
        """Trains a cell with one seed; returns the row of the log, which it appends."""
        begun, start = datetime.datetime.now(datetime.UTC), time.monotonic()
        row: dict[str, Any] = {"cell": entry.name, "seed": seed, "outcome": "stopped"}
        try:
            where = entry.study, self.scale, entry.cell
            result = train_seeds(*where, seed, 1, self.out, runs, note)
            (ours,) = (each for each in result["results"] if each["seed"] == seed)
            row |= {"outcome": "finished", "top1": ours["final"]["top1"]}
        except (UserError, RunDiverged) as error:
            row |= {"outcome": "failed", "reason": str(error)}
        finally:
            row |= {
                "begun": begun.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - start, 1),
                "revision": environment()["git_revision"],
            }
            with contextlib.closing(open_to_append(self.log)) as log:
                log.append((json.dumps(row) + "\n").encode())
                log.sync()
        return row

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises `UserError` if another queue writes the same results."""
        if is_in_bucket(self.out):
            with BucketLock(self.out, name=f"{self.log.stem}.lock"):
                yield
            return
        lock = filelock.UnixFileLock(self.log.with_suffix(".lock"), fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise UserError(
                f"another queue is already running at the scale {self.scale} with the results in "
                f"{self.out}; stop it, or give another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()


@dataclasses.dataclass(frozen=True)
class Job:
    """A run for another process: a cell by name, a seed, and the arguments of `Queue.run`."""

    scale: str
    out: str
    name: str
    seed: int
    runs: str
    note: str


def do_job(job: Job) -> None:
    """Trains a job in a process of its own."""
    redirect_output(
        pathlib.Path(job.runs, "output", f"{job.name.replace('/', '_')}_{job.seed}.txt")
    )
    study, cell = job.name.split("/")
    queue = Queue(job.scale, job.seed + 1, job.out, study, cell)
    try:
        queue.train(job.seed, queue.entries[0], job.runs, job.note)
    except RunInterrupted:
        sys.exit(INTERRUPTED)


def _copy(result: dict[str, Any], other: dict[str, Any], name: str, seeds: set[int]) -> set[int]:
    """Adds the given seeds of a cell with the same config to results; returns those it has."""
    found = seeds & {each["seed"] for each in other["results"]}
    for run in other["runs"]:
        if ours := sorted(found & set(run["seeds"])):
            seconds = round(run["seconds"] * len(ours) / len(run["seeds"]), 1)
            copied = {"copied_from": name, **run, "seeds": ours, "seconds": seconds}
            result["runs"].append(copied)
    if found:
        result.update({field: other[field] for field in ("parameters", "multiply_adds")})
        result["results"] += [each for each in other["results"] if each["seed"] in found]
        result["results"].sort(key=lambda each: each["seed"])
    return found


def _duration(seconds: float) -> str:
    """Returns a length of time, such as "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def main(argv: list[str]) -> None:
    """Runs the queue, or lists it."""
    outlive_output()
    options = flags.FLAGS
    if options.list or options.processes > 1:  # others need the memory of the GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    queue = Queue(options.scale, options.seeds, results_folder(), options.studies, options.cells)
    lines = queue.table()  # raises if there are results of another config
    if options.list:
        print("\n".join(lines))
        return
    revision = environment()["git_revision"]
    if revision and revision.endswith("+"):
        print(
            f"warning: the results will have the revision {revision}, because files differ from "
            "their commit; run the queue from a clean clone, with --out outside of it",
            file=sys.stderr,
        )
    lower_priority()
    try:
        queue.run(options.runs, options.note, options.processes)
    except RunInterrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    restart_with_huge_pages()
    define_flags("budget")
    flags.DEFINE_string("studies", "*", "Studies to run: a pattern for their names.")
    flags.DEFINE_integer(
        "processes",
        1,
        "Number of runs to train at the same time; several of these small networks fit on a GPU.",
        1,
    )
    flags.DEFINE_bool("list", False, "Show what is done and what is next, and end.")
    app.run(run_command(main), flags_parser=parse_flags)
