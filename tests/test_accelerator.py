import json
import os
import subprocess
import time

import numpy as np
import pytest

from experiments import accelerator, accelerator_checks
from experiments.accelerator import pack, parts, run_parts
from se_flax.errors import UserError
from tests.conftest import ROOT


def test_what_is_packed_is_unpacked_with_the_commit_it_is_of(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "PIECE_BYTES", 10_000)
    data = np.random.default_rng(0).bytes(25_000)
    (tmp_path / "tfds" / "cifar10").mkdir(parents=True)
    (tmp_path / "tfds" / "cifar10" / "images").write_bytes(data)
    pack(tmp_path / "pack", str(tmp_path / "tfds"), "", "3.12")
    pieces = sorted((tmp_path / "pack").glob("data.tar.*"))
    assert len(pieces) > 2
    assert max(piece.stat().st_size for piece in pieces) == 10_000

    script = tmp_path / "pack" / "unpack.sh"
    subprocess.run(["sh", script, tmp_path / "there"], check=True)
    assert (tmp_path / "there" / "data" / "cifar10" / "images").read_bytes() == data
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    code = "from se_flax.overview import environment as e; print(e()['git_revision'])"
    process = subprocess.run(
        ["python", "-c", code],
        cwd=tmp_path / "there" / "code",
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == commit
    with pytest.raises(UserError, match="prepare cifar10 there"):
        pack(tmp_path / "pack", str(tmp_path / "elsewhere"), "", "3.12")


def test_parts_run_in_order_and_stop_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "SECONDS_TO_SAVE", 0.1)
    wait = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"
    commands = {
        "first": [["-c", "print('of the first')"], ["-c", "raise SystemExit(3)"]],
        "long": [["-c", wait], ["-c", "print('never')"]],
        "last": [["-c", "print('never')"]],
    }
    begun = time.monotonic()
    run_parts(commands, tmp_path, minutes=0.05)
    assert time.monotonic() - begun < 60
    outcomes = [line.rpartition(": python")[0] for line in capsys.readouterr().out.splitlines()]
    assert [outcome.partition(",")[0] for outcome in outcomes[:3]] == [
        "first: done",
        "first: failed with status 3",
        "long: stopped: out of time",
    ]
    assert (tmp_path / "output" / "first.txt").read_text() == "of the first\n"
    assert not (tmp_path / "output" / "last.txt").exists()


def test_the_time_to_an_accuracy_leaves_out_the_start_and_the_compilation(tmp_path):
    times = ((100.0, 50.0), (110.0, 91.0), (120.0, 92.5), (130.0, 92.0))
    rows = [{"test/top1": top1, "time/seconds": seconds} for seconds, top1 in times]
    rows.insert(1, {"train/loss": 1.0, "time/seconds": 105.0})
    assert accelerator.seconds_to(rows, 92) == 30  # three epochs of ten seconds
    assert accelerator.seconds_to(rows, 94) is None
    assert accelerator.seconds_to(rows[:1], 50) is None
    (tmp_path / "a" / "0_1").mkdir(parents=True)
    (tmp_path / "a" / "0_1" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "| a/0_1 | 30 | - |" in accelerator.times_page(tmp_path)


def test_every_part_is_a_command_whose_options_exist(run_command):
    for name, commands in parts("out", "runs", 2, "a note", False).items():
        for command in commands:
            shown = run_command(command[1], "--help").stdout
            for option in command[2:]:
                assert option.partition("=")[0] in shown, (name, option)


def test_the_deviation_is_relative_to_the_largest_value():
    reference = {"a": np.array([1.0, -4.0]), "b": np.array([1e-3])}
    ours = {"a": np.array([1.0, -3.0]), "b": np.array([1e-3])}
    assert accelerator_checks.deviation(ours, reference) == 0.25
    assert accelerator_checks.deviation(reference, reference) == 0
