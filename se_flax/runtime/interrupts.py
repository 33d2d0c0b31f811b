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
    """In this context, SIGINT, SIGTERM and SIGHUP set `requested` instead of ending the process.

    A second SIGINT has its usual effect. A SIGHUP that was ignored before (by nohup) is still
    ignored. Outside the main thread, where Python allows no signal handlers, nothing is caught.
    Interrupts may be nested, as in a program that trains several networks: a request reaches all.

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
        self.requested = any(outer.requested for outer in self._outer())
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for outer in self._outer():
            outer.requested = outer.requested or self.requested

    def stop_after(self, dispatch: int) -> bool:
        """Returns whether to stop now; the answer is the same in all processes.

        Args:
            dispatch: number of this call, from 0. All processes call it after each dispatch.
        """
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(dispatch)

    def _outer(self) -> set["Interrupt"]:
        """Returns the object that this one is entered within, if there is one."""
        owners = (getattr(handler, "__self__", None) for handler in self._before.values())
        return {owner for owner in owners if isinstance(owner, Interrupt)}

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
