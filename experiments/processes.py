"""Processes for the queue of studies: several at the same time, at the lowest priority."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

AUTOGROUP = pathlib.Path("/proc/self/autogroup")
Job = TypeVar("Job")


def in_processes(
    jobs: Sequence[Job],
    work: Callable[[Job], None],
    key: Callable[[Job], Hashable],
    count: int,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Job, int | None]]:
    """Does each job in a process of its own, several at the same time.

    Jobs start in order, but a job waits while another one with the same key is running. Once
    `should_stop()` is true, no job is started, and those that are running get a SIGTERM.

    Args:
        jobs: what to do; they are pickled.
        work: does a job; a function of a module, because it is pickled, too.
        key: what jobs that run at the same time must not share.
        count: the largest number of processes.
        should_stop: is asked a few times a second.

    Yields:
        Each job that was started, when it has ended, and the exit status of its process. A negative
        status is the number of the signal that ended it.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with JAX can hang
    waiting, running, stopping = list(jobs), [], False
    while running or (waiting and not stopping):
        if should_stop() and not stopping:
            stopping = True
            for _, process in running:
                process.terminate()
        while waiting and len(running) < count and not stopping:
            busy = {key(job) for job, _ in running}
            job = next((each for each in waiting if key(each) not in busy), None)
            if job is None:
                break
            waiting.remove(job)
            process = context.Process(target=work, args=(job,))
            process.start()
            running.append((job, process))
        multiprocessing.connection.wait([each.sentinel for _, each in running], timeout=0.2)
        ended = [each for each in running if each[1].exitcode is not None]
        running = [each for each in running if each not in ended]
        for job, process in ended:
            yield job, process.exitcode


def redirect_output(path: str | os.PathLike[str]) -> None:
    """Sends everything that this process prints to the end of a file."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def lower_priority() -> None:
    """Gives this process the lowest priority.

    Linux shares the processors among sessions first (autogroups, sched(7)), and a process's own
    niceness counts only within its session. So the session gets the lowest priority, too.
    """
    os.nice(19)
    if AUTOGROUP.exists():
        with contextlib.suppress(OSError):  # not allowed in every container
            AUTOGROUP.write_text("19")
