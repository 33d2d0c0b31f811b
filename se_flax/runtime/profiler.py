"""Traces of training steps for TensorBoard's profiler and xprof."""

import pathlib
import tempfile
from typing import Any

import jax

from se_flax.runtime.paths import Path, is_in_bucket
from se_flax.runtime.storage import persistently


class Profiler:
    """Writes one trace of a run's steps to `<folder>/plugins/profile`, where TensorBoard looks.

    Args:
        folder: the run's folder, on a disk or in a bucket.
        steps: how many steps to trace, at least; 0 for no trace.
    """

    def __init__(self, folder: Path, steps: int):
        self._folder, self._left = folder, steps
        self._local: tempfile.TemporaryDirectory | None = None

    def start(self) -> None:
        """Starts to trace, if that is still to be done and not yet begun."""
        if self._left > 0 and self._local is None:
            self._local = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._local.name)

    def add(self, steps: int, results: Any) -> Path | None:
        """Counts steps, and after the last one writes the trace and returns its folder.

        Args:
            steps: how many steps have been started since the last call.
            results: their results; the trace ends when they are there.
        """
        if self._local is None:
            return None
        self._left -= steps
        return self.stop(results) if self._left <= 0 else None

    def stop(self, results: Any = ()) -> Path | None:
        """Ends and writes a trace that has begun, and returns its folder."""
        if self._local is None:
            return None
        jax.block_until_ready(results)
        jax.profiler.stop_trace()
        source = pathlib.Path(self._local.name)
        for file in filter(pathlib.Path.is_file, source.rglob("*")):
            target = self._folder / file.relative_to(source).as_posix()
            persistently(lambda file=file, target=target: _copy(file, target), str(target))
        self._local.cleanup()
        self._local, self._left = None, 0
        return self._folder / "plugins" / "profile"


def _copy(source: pathlib.Path, target: Path) -> None:
    if not is_in_bucket(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
