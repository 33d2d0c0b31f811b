"""A terminal: runs a program in one, and says what its screen shows."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.conftest import ROOT

# The first terminal that a session opens becomes its own, whose Ctrl-C it gets.
_TAKE_TERMINAL = "import os; os.close(os.open(os.ttyname(0), os.O_RDWR))\n"


def shown(output: str, columns: int) -> list[str]:
    """Returns the lines that a terminal of some width shows after an output."""
    lines, row, column = [[]], 0, 0
    for part in re.findall(r"\x1b\[[A-Z0-9]*|.|\n|\r", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
        elif part == "\x1b[K":
            del lines[row][column:]
        else:
            assert len(part) == 1, f"the terminal does not know {part!r}"
            if column == columns:
                row, column = row + 1, 0
            lines += [[]] * (row + 1 - len(lines))
            lines[row] = [*lines[row], *" " * (column - len(lines[row]))]
            lines[row][column : column + 1] = part
            column += 1
        while len(lines) <= row:
            lines.append([])
    return ["".join(line).rstrip() for line in lines]


def run(code: str, columns: int, interrupt_at: str | None = None) -> list[str]:
    """Runs Python code in a terminal; returns what it shows at the end.

    Args:
        code: the code.
        columns: width of the terminal.
        interrupt_at: presses Ctrl-C when the program has printed this.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL + code],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the program has ended
            break
        if interrupt_at is not None and interrupt_at.encode() in output:
            os.write(ours, b"\x03")
            interrupt_at = None
    os.close(ours)
    process.wait(60)
    return shown(output.decode(), columns)
