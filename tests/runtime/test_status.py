import io
import time

from se_flax.runtime.status import busy, doing, say_detail
from tests.runs import wait_until


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_seconds_are_counted_on_a_line_that_is_erased():
    stream = Terminal()
    with doing("reading the data", stream):
        wait_until(lambda: "reading the data, 1 s" in stream.getvalue())
        assert stream.getvalue().startswith("\r\x1b[Kreading the data\r")
        assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K\r")
    after = stream.getvalue()
    time.sleep(1.2)
    assert stream.getvalue() == after


def test_on_a_terminal_a_bar_can_show_it_instead():
    stream, shown = Terminal(), []
    with doing("compiling", stream, shown.append):
        wait_until(lambda: shown)
    assert shown[0] == "compiling"
    assert not stream.getvalue()


def test_without_a_terminal_what_takes_long_is_said_and_what_is_quick_is_not():
    stream = io.StringIO()
    with doing("reading the data", stream):
        pass
    assert not stream.getvalue()
    with doing("compiling", stream, after=0.05):
        wait_until(lambda: stream.getvalue())
    assert stream.getvalue() == "compiling\n"


def test_a_command_says_what_it_does_on_a_terminal_only_and_not_in_its_output(monkeypatch, capsys):
    with busy("evaluating"):
        time.sleep(0.6)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with busy("evaluating"):
        wait_until(lambda: "evaluating" in terminal.getvalue())
    assert terminal.getvalue().endswith("\r\x1b[K\r")
    assert not capsys.readouterr().out


def test_the_line_is_erased_before_an_error_is_printed():
    stream = Terminal()
    try:
        with doing("reading the data", stream):
            raise ValueError
    except ValueError:
        assert stream.getvalue().endswith("\r\x1b[K\r")


def test_how_far_it_is_is_shown_of_the_innermost():
    say_detail("nothing is being done")
    stream = Terminal()
    with doing("reading the data", stream):
        say_detail("5,000 images found")
        wait_until(lambda: "reading the data: 5,000 images found, 1 s" in stream.getvalue())
        with doing("checking", inner := Terminal()):
            say_detail("12 of 20 images checked")
            wait_until(lambda: "checking: 12 of 20 images checked, 1 s" in inner.getvalue())
        assert "12 of 20" not in stream.getvalue()
    with doing("compiling", stream):
        wait_until(lambda: "compiling, 1 s" in stream.getvalue())
