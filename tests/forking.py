"""A process that has imported the libraries, and copies itself to run a command.

A copy starts as `python -m MODULE` would, without the time that importing libraries takes. It
imports `se_flax` itself.
"""

import gc
import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import warnings
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Their import starts no threads, which a copy would lack.
LIBRARIES = ("jax", "flax.linen", "optax", "ml_collections", "absl.app", "orbax.checkpoint")
LIBRARIES += ("PIL.Image", "cv2")


class Commands:
    """Runs commands in copies of a process; `close` ends it."""

    def __init__(self, folder: pathlib.Path):
        self._outputs = folder / "stdout", folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs `python -m MODULE ARGUMENTS` in the repository's root."""
        request = {
            "argv": [module, *arguments],
            "environment": {**os.environ, **environment},
            "outputs": [str(path) for path in self._outputs],
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        outputs = (path.read_text() for path in self._outputs)
        return subprocess.CompletedProcess(request["argv"], status, *outputs)

    def close(self) -> None:
        self._process.communicate()


def copies() -> dict[str, Any] | None:
    """Answers each request with a copy's exit status; returns the request in each copy."""
    for line in sys.stdin:
        request = json.loads(line)
        with warnings.catch_warnings(action="ignore"):  # OpenBLAS starts its threads anew
            process = os.fork()
        if process == 0:
            return request
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Runs a command as if this process had been started for it."""
    paths = (os.devnull, *request["outputs"])
    for number, path in enumerate(paths):
        mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
        os.dup2(os.open(path, mode), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # what is not collected stays shared with the copies
    if request := copies():
        become(request)
