"""Lines on a terminal: they fit its width, and no progress bar gets into them."""

import os
import sys
import textwrap
from typing import TextIO

from tqdm import tqdm


def columns_of(stream: TextIO) -> int:
    """Returns the width of the terminal that a stream writes to, 0 if it is none or has no size."""
    try:
        size = os.get_terminal_size(stream.fileno()) if stream.isatty() else (0, 0)
    except (OSError, ValueError):  # of a stream that only stands for a terminal, or is closed
        return 0
    return size[0] if all(size) else 0


def fitted(line: str, stream: TextIO) -> str:
    """Returns a line, broken between words so that it fits if a stream writes to a terminal."""
    columns = columns_of(stream)
    if not columns or len(line) < columns:
        return line
    return textwrap.fill(
        line,
        columns - 1,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def say_last(line: str) -> None:
    """Prints a line to the standard error, in place of a bar and the ^C that a terminal echoes."""
    sys.stdout.flush()
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{erase}{fitted(line, sys.stderr)}", file=sys.stderr, flush=True)


def say_error(line: str) -> None:
    """Prints a line to the standard error, above any bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        sys.stdout.flush()
        print(fitted(line, sys.stderr), file=sys.stderr, flush=True)
