"""What the commands print."""

import warnings

from se_flax.cli.command import run_command
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
