"""Where a run's numbers go: metrics.jsonl and TensorBoard events."""

import functools
import io
import json
import os
import pathlib
import socket
import time
from collections.abc import Mapping

from se_flax.runtime.storage import AppendedFile, persistently, write_text


class _FileWriter:
    def __init__(self, path: pathlib.Path):
        self._file = AppendedFile(path)

    def sync(self) -> None:
        """Flushes what was written to disk, so that it survives a power cut."""
        self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class JsonlWriter(_FileWriter):
    """Appends each row of scalars to `metrics.jsonl`.

    First it drops the rows of steps after `last_step`. A run wrote them and was killed before its
    next checkpoint, so they will be written again.
    """

    def __init__(self, path: pathlib.Path, last_step: int):
        if path.exists():
            rows = path.read_text(errors="replace").splitlines()
            kept = [row for row in rows if _step(row) <= last_step]
            text = "".join(row + "\n" for row in kept)
            persistently(lambda: write_text(path, text), str(path))
        super().__init__(path)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a row."""
        row = {"step": step, **{name: float(value) for name, value in scalars.items()}}
        self._file.append((json.dumps(row) + "\n").encode())


def _step(row: str) -> float:
    """Returns a row's step, infinity if the row is damaged."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):  # a kill may have cut the last row short
        return float("inf")


class TensorBoardWriter(_FileWriter):
    """Writes scalars to a file of TensorBoard events, without importing TensorFlow.

    It formats records with TensorBoard's `RecordWriter` and appends them itself. TensorBoard's
    `EventFileWriter` writes from a thread that dies at the first error, leaves a record half
    written, and reports the error late or never.
    """

    def __init__(self, workdir: pathlib.Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._record_writer = Event, RecordWriter
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        super().__init__(workdir / name)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends an event."""
        event = self._event(wall_time=time.time(), step=step)
        for name, value in scalars.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._write(event)

    def _write(self, event) -> None:
        record = io.BytesIO()
        self._record_writer(record).write(event.SerializeToString())
        self._file.append(record.getvalue())


class Writers:
    """Several writers as one."""

    def __init__(self, *writers: JsonlWriter | TensorBoardWriter):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the same scalars with each writer, with retries.

        Raises:
            StorageError: if they cannot be written, after several attempts.
        """
        for writer in self._writers:
            persistently(functools.partial(writer.write_scalars, step, scalars), "a row of metrics")

    def sync(self) -> None:
        """Flushes what was written to disk, so that it survives a power cut.

        Raises:
            StorageError: if that fails, after several attempts.
        """
        for writer in self._writers:
            persistently(writer.sync, "metrics")

    def close(self) -> None:
        """Closes each writer."""
        for writer in self._writers:
            writer.close()


def make_writer(workdir: pathlib.Path, last_step: int) -> Writers:
    """Returns a writer to metrics.jsonl and to TensorBoard events in the workdir.

    Args:
        workdir: the run's folder.
        last_step: the step of the checkpoint from which the run continues; 0 for a new run.
    """
    return Writers(TensorBoardWriter(workdir), JsonlWriter(workdir / "metrics.jsonl", last_step))
