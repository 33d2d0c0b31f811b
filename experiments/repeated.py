"""Whether a run that is trained again ends in the same bits: python -m experiments.repeated A B.

A and B are the workdirs of two finished runs with the same config and seed. A row about them is
added to OUT/repeated.json, which the report shows.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from experiments.accelerator_checks import same_bits
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.runtime.paths import Path, to_path
from se_flax.runtime.storage import write_json

FILE = "repeated.json"
ABOUT = ("model", "dataset", "seed", "steps", "device", "device_count", "git_revision")


def compared(first: Path, second: Path, note: str) -> dict[str, Any]:
    """Returns a row about two runs.

    Args:
        first: workdir of a finished run.
        second: workdir of the same run, trained again.
        note: what the reader should know about both, such as options of XLA.

    Raises:
        UserError: if a run is not finished, or they differ in more than time and place.
    """
    summaries = []
    for workdir in (first, second):
        path = workdir / "summary.json"
        if not path.exists():
            raise UserError(f"{workdir} holds no finished run: it has no {path.name}")
        summaries.append(json.loads(path.read_text()))
    ours, theirs = summaries
    for name in ABOUT:
        if ours[name] != theirs[name]:
            raise UserError(f"the runs differ in {name}: {ours[name]} and {theirs[name]}")
    if (first / "config.json").read_text() != (second / "config.json").read_text():
        raise UserError("the runs have different configs; see their config.json")
    return {
        **{name: ours[name] for name in ABOUT},
        "jax": ours["versions"]["jax"],
        "note": note,
        "top1": [each["final"]["top1"] for each in summaries],
        "same_bits": same_bits([first, second]),
    }


def repeated_section(out: Path) -> list[str]:
    """Returns the report's lines on runs that were trained again; nothing if there are none."""
    path = out / FILE
    if not path.exists():
        return []
    lines = [
        "## Runs that were trained again",
        "",
        "Does the same run, with the same seed, end in the same parameters? Made by "
        "`python -m experiments.repeated`.",
        "",
        "| network | seed | steps | on | top-1, % | again | the same bits |",
        "|---" * 7 + "|",
        *map(_line, json.loads(path.read_text())),
    ]
    return [*lines, ""]


def _line(row: Mapping[str, Any]) -> str:
    first, second = row["top1"]
    on = f"{row['device_count']} x {row['device']}, JAX {row['jax']}, {row['git_revision'][:10]}"
    on += f"; {row['note']}" if row["note"] else ""
    return (
        f"| {row['model']}, {row['dataset']} | {row['seed']} | {row['steps']:,} | {on} | "
        f"{first:.2f} | {second:.2f} | {'yes' if row['same_bits'] else 'no'} |"
    )


def main(argv: Sequence[str]) -> None:
    """Compares two runs, prints the row and adds it to the file."""
    if len(argv) != 3:
        raise UserError("give the workdirs of two runs")
    row = compared(to_path(argv[1]), to_path(argv[2]), flags.FLAGS.note)
    path = to_path(flags.FLAGS.out) / FILE
    rows = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [*rows, row], indent=1)
    print(_line(row))


if __name__ == "__main__":
    flags.DEFINE_string("out", "experiments/results", "Folder of the results.")
    flags.DEFINE_string("note", "", "What the report should say about both runs.")
    app.run(run_command(main), flags_parser=functools.partial(parse_flags, positional=2))
