def test_signals_to_stop_are_noted_and_ignored_ones_stay_ignored(run_python):
    code = (
        "import signal\n"
        "from se_flax.runtime.interrupts import Interrupt\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    with Interrupt() as interrupt:\n"
        "        assert not interrupt.stop_after(0)\n"
        "        signal.raise_signal(number)\n"
        "        assert interrupt.stop_after(1), number\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does\n"
        "with Interrupt() as interrupt:\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    assert not interrupt.stop_after(0)\n"
        "with Interrupt():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        print('at once')\n"
    )
    process = run_python("-c", code)
    assert process.stdout == "at once\n", process.stderr


def test_a_request_reaches_the_outer_of_two_and_one_entered_later(run_python):
    code = (
        "import signal\n"
        "from se_flax.runtime.interrupts import Interrupt\n"
        "with Interrupt() as outer:\n"
        "    with Interrupt() as inner:\n"
        "        assert not inner.stop_after(0)\n"
        "    assert not outer.stop_after(0)\n"
        "    with Interrupt() as inner:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        assert inner.stop_after(0)\n"
        "    assert outer.stop_after(1)\n"
        "    with Interrupt() as inner:\n"
        "        assert inner.stop_after(0)\n"
        "with Interrupt() as outer:\n"
        "    assert not outer.stop_after(0)\n"
        "print('done')\n"
    )
    process = run_python("-c", code)
    assert process.stdout == "done\n", process.stderr
