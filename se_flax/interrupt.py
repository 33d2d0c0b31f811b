"""Stopping a run without losing work."""

import signal
import sys
import threading
from typing import Self


class Interrupt:
    """While entered, notes SIGINT and SIGTERM in `requested` instead of dying of them.

    A second SIGINT has its usual effect. Outside the main thread, where Python allows no signal
    handlers, nothing is caught.
    """

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(
            "\nstopping after the next step; Ctrl-C again stops at once",
            file=sys.stderr,
            flush=True,
        )
