"""Says what is being done, and for how long, while there is no progress to show."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

QUIET_SECONDS = 30  # where there is no terminal, the longest time without a line

_details: list[str] = []  # of what is being done, the innermost last


@contextlib.contextmanager
def doing(
    what: str,
    stream: TextIO | None = None,
    show: Callable[[str], object] | None = None,
    after: float = 0.5,
) -> Iterator[None]:
    """Says what is being done within it, and for how many seconds.

    On a terminal that is a line which counts the seconds, and is erased in the end. Elsewhere it is
    printed now and then, if it takes long enough.

    Args:
        what: what is being done, for example "reading the data".
        stream: where to; by default the standard output.
        show: shows a text on the terminal, for example on a bar; by default as a line of its own.
        after: where there is no terminal, seconds before the first line.
    """
    stream = stream or sys.stdout
    has_own_line = stream.isatty() and show is None
    first, later = 0.0, 1.0
    if not stream.isatty():
        first, later = after, QUIET_SECONDS
        show = functools.partial(print, file=stream, flush=True)
    show = show or functools.partial(_draw, stream)
    done, begun, depth = threading.Event(), time.monotonic(), len(_details)

    def tick() -> None:
        pause = first
        while not done.wait(pause):
            seconds = int(time.monotonic() - begun)
            shown = f"{what}: {_details[depth]}" if _details[depth] else what
            show(f"{shown}, {seconds} s" if seconds else shown)
            pause = later

    thread = threading.Thread(target=tick, daemon=True)
    _details.append("")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _details.pop()
        if has_own_line:
            _draw(stream, "")


def say_detail(text: str) -> None:
    """Adds to what is shown of what is being done, for example how many files have been read."""
    if _details:
        _details[-1] = text


def busy(what: str) -> contextlib.AbstractContextManager[None]:
    """Says what is being done within it, on the standard error and only on a terminal."""
    return doing(what, sys.stderr) if sys.stderr.isatty() else contextlib.nullcontext()


def _draw(stream: TextIO, text: str) -> None:
    """Replaces the line; leaves the cursor at its start, for whatever is printed next."""
    print(f"\r\x1b[K{text}", end="\r", file=stream, flush=True)
