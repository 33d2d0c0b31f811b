"""What the commands print."""

import os
import subprocess
import sys
import warnings

import pytest

from se_flax.cli.command import READER_GONE, run_command
from se_flax.errors import Note


def test_notes_are_printed_on_one_line_and_other_warnings_as_usual(capsys, monkeypatch):
    def main(argv):
        warnings.warn("first\n  second", Note, stacklevel=1)
        warnings.warn("elsewhere", RuntimeWarning, stacklevel=1)

    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *warning: shown.append(str(warning[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run_command(main)([])
    assert capsys.readouterr().err == "note: first second\n"
    assert shown == ["elsewhere"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_ends_silently_if_the_reader_of_its_output_has_ended(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "se_flax", "configs"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=120
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (READER_GONE, b"")
