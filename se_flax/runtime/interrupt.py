"""Stopping a run without losing work."""

import contextlib
import os
import signal
import sys
import threading
from typing import Self

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """While entered, notes SIGINT, SIGTERM and SIGHUP in `requested` instead of dying of them.

    A second SIGINT has its usual effect; a SIGHUP that was ignored (by nohup) still is. Outside the
    main thread, where Python allows no signal handlers, nothing is caught. In a run of several
    processes SIGTERM is JAX's preemption notice, and the others are passed on as one: all processes
    then stop at the same step.
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

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_after(self, dispatch: int) -> bool:
        """Returns whether to stop now, the same in all processes.

        Args:
            dispatch: how often this was asked before; each process asks after each dispatch.
        """
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(dispatch)

    def _note(self, number, frame) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        said = b"\nstopping after the next step; Ctrl-C again stops at once\n"
        with contextlib.suppress(OSError):  # Ctrl-C has ended what this was piped into, too
            os.write(sys.stderr.fileno(), said)  # not by print, which this may have interrupted
