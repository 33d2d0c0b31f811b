"""Runs `python -m se_flax.main` many times from one process that has already imported everything.

Each line of input is a JSON list of arguments. The answer is a JSON object of exit `status` (None
after a minute), `stdout` and `stderr`.
"""

import json
import os
import signal
import sys
import tempfile
import traceback

import sklearn.datasets  # noqa: F401
from absl import app

from se_flax import main, train  # noqa: F401
from se_flax.cli.command import parse_flags, run_command
from se_flax.runtime import compiler

SECONDS = 60


def run(arguments: list[str]) -> dict:
    """Runs the command with arguments in a child of this process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 1
            try:
                main.define_flags()
                app.run(run_command(main.main), ["main.py", *arguments], parse_flags)
            except SystemExit as stop:
                status = stop.code or 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(SECONDS)
        _, code = os.waitpid(child, 0)
        signal.alarm(0)
        out.seek(0)
        err.seek(0)
        status = os.waitstatus_to_exitcode(code)
        return {
            "status": None if status == -signal.SIGKILL else status,
            "stdout": out.read().decode(),
            "stderr": err.read().decode(),
        }


if __name__ == "__main__":
    compiler.prepare()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
