"""Where a run's numbers go: metrics.jsonl and TensorBoard events."""

import functools
import io
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from se_flax.runtime.paths import Path
from se_flax.runtime.storage import open_to_append, persistently, write_text

Callback = Callable[[int, dict[str, float]], None]


class _FileWriter:
    def __init__(self, path: Path):
        self._file = open_to_append(path)

    def sync(self) -> None:
        """Flushes what was written to disk, so that it survives a power cut."""
        self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


# Names of scalars that depend on the clock, and so differ between equal runs, begin with this.
TIMES = "time/"


class JsonlWriter(_FileWriter):
    """Appends each row of scalars to `metrics.jsonl`, except those whose names begin with `TIMES`.

    Equal runs therefore write equal files. First it drops the rows of steps after `last_step`: a
    run wrote them and was killed before its next checkpoint, so they will be written again.
    """

    def __init__(self, path: Path, last_step: int):
        if path.exists():
            rows = path.read_bytes().decode(errors="replace").splitlines()
            kept = [row for row in rows if _step(row) <= last_step]
            text = "".join(row + "\n" for row in kept)
            persistently(lambda: write_text(path, text), str(path))
        super().__init__(path)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a row."""
        kept = {name: float(x) for name, x in scalars.items() if not name.startswith(TIMES)}
        row = {"step": step, **kept}
        self._file.append((json.dumps(row) + "\n").encode())


def _step(row: str) -> float:
    """Returns a row's step, infinity if the row is damaged."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):  # a kill may have cut the last row short
        return float("inf")


class TensorBoardWriter(_FileWriter):
    """Writes scalars, images and hyperparameters to a TensorBoard file, without TensorFlow.

    It formats records with TensorBoard's `RecordWriter` and appends them itself. TensorBoard's
    `EventFileWriter` writes from a thread that dies at the first error, leaves a record half
    written, and reports the error late or never.
    """

    def __init__(self, workdir: Path):
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

    def write_image(self, step: int, name: str, png: bytes, width: int, height: int) -> None:
        """Appends an image, encoded as PNG, of a width and height in pixels."""
        event = self._event(wall_time=time.time(), step=step)
        image = event.summary.value.add(tag=name).image
        image.width, image.height, image.colorspace = width, height, 3
        image.encoded_image_string = png
        self._write(event)

    def write_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Appends the values by which TensorBoard compares runs; what is not plain, as text."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        plain = {k: x if isinstance(x, bool | int | float) else str(x) for k, x in values.items()}
        self._write(self._event(wall_time=time.time(), summary=hparams_pb(plain)))

    def _write(self, event) -> None:
        record = io.BytesIO()
        self._record_writer(record).write(event.SerializeToString())
        self._file.append(record.getvalue())


class Writers:
    """Several writers as one.

    Args:
        writers: the writers.
        callback: is called with the step and the scalars of each row, too.
    """

    def __init__(self, *writers: JsonlWriter | TensorBoardWriter, callback: Callback | None = None):
        self._writers, self._callback = writers, callback

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the same scalars with each writer, with retries.

        Raises:
            StorageError: if they cannot be written, after several attempts.
        """
        for writer in self._writers:
            persistently(functools.partial(writer.write_scalars, step, scalars), "a row of metrics")
        if self._callback is not None:
            self._callback(step, dict(scalars))

    def write_image(self, step: int, name: str, png: bytes, width: int, height: int) -> None:
        """Writes an image, encoded as PNG, with each writer that takes images, with retries.

        Raises:
            StorageError: if it cannot be written, after several attempts.
        """
        for writer in self._writers:
            if isinstance(writer, TensorBoardWriter):
                write = functools.partial(writer.write_image, step, name, png, width, height)
                persistently(write, "an image")

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


def make_writer(
    workdir: Path,
    last_step: int,
    callback: Callback | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
) -> Writers:
    """Returns a writer to metrics.jsonl and to TensorBoard events in the workdir.

    Args:
        workdir: the run's folder.
        last_step: the step of the checkpoint from which the run continues; 0 for a new run.
        callback: see `Writers`.
        hyperparameters: values by which TensorBoard compares the run with others.
    """
    tensorboard = TensorBoardWriter(workdir)
    if hyperparameters:
        write = functools.partial(tensorboard.write_hyperparameters, hyperparameters)
        persistently(write, "hyperparameters")
    jsonl = JsonlWriter(workdir / "metrics.jsonl", last_step)
    return Writers(tensorboard, jsonl, callback=callback)
