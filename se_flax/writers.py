"""Where a run's numbers go: metrics.jsonl and TensorBoard events."""

import json
import pathlib
from collections.abc import Mapping


class JsonlWriter:
    """A clu metric writer that appends each row to `metrics.jsonl`.

    Rows of steps after `last_step` are dropped first: they were written by a run that was
    killed before it saved what they tell of, and will be written again.
    """

    def __init__(self, path: pathlib.Path, last_step: int):
        if path.exists():
            rows = path.read_text().splitlines()
            kept = [row for row in rows if _step(row) <= last_step]
            partial = path.with_suffix(".tmp")
            partial.write_text("".join(row + "\n" for row in kept))
            partial.replace(path)
        self._file = path.open("a", buffering=1)  # each row reaches the file at once

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a row."""
        row = {"step": step, **{name: float(value) for name, value in scalars.items()}}
        self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Makes sure that all rows are in the file."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _step(row: str) -> float:
    try:
        return json.loads(row)["step"]
    except json.JSONDecodeError:  # the last row of a killed run may be cut short
        return float("inf")


def make_writer(workdir: pathlib.Path, last_step: int):
    """Returns a clu metric writer to metrics.jsonl and, if TensorFlow can be imported, to
    TensorBoard events in the workdir.

    Args:
        last_step: the step the run goes on from.
    """
    jsonl = JsonlWriter(workdir / "metrics.jsonl", last_step)
    try:
        from clu import metric_writers
    except ImportError as error:
        print(f"no TensorBoard events, only metrics.jsonl, will be written: {error}")
        return jsonl
    return metric_writers.MultiWriter([metric_writers.SummaryWriter(str(workdir)), jsonl])
