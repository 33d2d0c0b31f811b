"""Stopping a run without losing work."""

import contextlib
import os
import signal
import sys
import threading
from typing import Self

import jax
from jax.experimental import multihost_utils

_ERASE = b"\r\x1b[K"  # removes the line of the bar, which ends in ^C


class Interrupt:
    """While entered, SIGINT, SIGTERM and SIGHUP set `requested` instead of ending the process.

    A second SIGINT has its usual effect, and a SIGHUP that was ignored (by nohup) still is. Outside
    the main thread, where Python allows no signal handlers, nothing is caught.

    In a run of several processes JAX catches SIGTERM as a notice of preemption, and the other
    signals are passed on as SIGTERM, so that all processes stop at the same step.
    """

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT]
        if jax.process_count() == 1:
            numbers.append(signal.SIGTERM)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_after(self, dispatch: int) -> bool:
        """Returns whether to stop now; the answer is the same in all processes.

        Args:
            dispatch: the number of earlier calls; every process calls after each dispatch.
        """
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(dispatch)

    def _note(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        line = b"stopping after the next step; Ctrl-C again stops at once\n"
        with contextlib.suppress(OSError, ValueError):  # Ctrl-C may have ended the pipe's reader
            if sys.stderr.isatty():
                line = _ERASE + line
            os.write(sys.stderr.fileno(), line)  # not print, which the signal may have interrupted
