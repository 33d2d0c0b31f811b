"""The measurements that need an accelerator, in one command: python -m experiments.accelerator.

It works through the parts below, in order of worth, for `--minutes`, then stops; a second call
continues. Each part is an ordinary command, with its output in OUT/output/PART.txt:

- checks: whether the accelerator computes what a CPU does (`experiments.accelerator_checks`);
- speed: training and inference, with SE and without, next to stock Flax and PyTorch;
- studies: the queue of studies at the scale `budget` (`experiments.queue`);
- recipe: ResNet-20 and SE-ResNet-20 on CIFAR-10 with the published recipe, 200 epochs, 3 seeds;
- deeper: ResNet-56 and SE-ResNet-56 in the same way;
- seeds: several seeds computed at once, next to one. On a GPU, their programs take minutes to
  compile.

At the end it writes to OUT/time_to.md how long each run took to reach 92% and 94% on CIFAR-10.

A machine without a network needs what `--pack=DIR` puts together: the code, CIFAR-10 as prepared by
TFDS, in pieces of at most 48 MB, and a script that unpacks them, DIR/unpack.sh. With
`--wheels=requirements.txt`, it also downloads the packages that are named there, without those they
depend on. TensorFlow is not needed.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

from absl import app, flags

from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.runtime.huge_pages import restart_with_huge_pages

PIECE_BYTES = 48 * 10**6
SECONDS_TO_SAVE = 30
"""How long a command that was asked to stop may take to save its state."""

UNPACK = """\
#!/bin/sh
# Unpacks code, data and packages: sh unpack.sh FOLDER
# Then: cd FOLDER/code && PYTHONPATH=../packages TFDS_DATA_DIR=../data \\
#     python3 -m experiments.accelerator --minutes=25
set -e
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/code" "$1/data" "$1/packages"
tar -xzf "$here/code.tar.gz" -C "$1/code"
cat "$here"/data.tar.* | tar -x -C "$1/data"
if ls "$here"/*.whl >/dev/null 2>&1; then
  python3 -m pip install -q --no-index --no-deps --upgrade --target "$1/packages" "$here"/*.whl
fi
"""


def parts(
    out: str, runs: str, processes: int, note: str, smoke: bool
) -> dict[str, list[list[str]]]:
    """Returns the commands of each part, as arguments of Python.

    Args:
        out: folder of the results.
        runs: folder of checkpoints and logs.
        processes: number of runs of the queue at the same time.
        note: sentence to keep with the results of the queue.
        smoke: whether to run the smallest lengths, to check that everything works.
    """
    speed = ["-m", "experiments.speed", f"--out={out}"]
    steps = [*speed, "--section=steps", f"--seconds={0 if smoke else 0.2}"]
    steps += [f"--rounds={1 if smoke else 5}", "--implementations=se_flax,stock Flax,PyTorch"]
    pairs = [["resnet20_cifar", "se_resnet20_cifar"]]
    pairs += [] if smoke else [["resnet50", "se_resnet50"]]
    checks = ["-m", "experiments.accelerator_checks", f"--out={out}"]
    queue = ["-m", "experiments.queue", f"--out={out}", f"--runs={runs}", f"--note={note}"]
    queue.append(f"--processes={processes}")
    studies = [*queue, f"--scale={'smoke' if smoke else 'budget'}"]
    recipe = [*queue, f"--scale={'smoke' if smoke else 'full'}", "--studies=backbones"]
    return {
        "checks": [[*checks, *(["--networks=se_resnet20_cifar"] if smoke else [])]],
        "speed": [[*steps, f"--networks={','.join(pair)}"] for pair in pairs],
        "studies": [[*studies, *(["--studies=no_squeeze", "--seeds=1"] if smoke else [])]],
        "recipe": [[*recipe, *(["--seeds=1"] if smoke else ["--cells=cifar10_resnet20*"])]],
        "deeper": [] if smoke else [[*recipe, "--cells=cifar10_resnet56*"]],
        "seeds": [[*speed, "--section=seeds"]],
    }


def run_until(command: list[str], output: pathlib.Path, deadline: float) -> str:
    """Runs Python until it ends, or asks it to stop at a time; returns how it ended.

    Args:
        command: arguments of Python.
        output: file to which its output is added.
        deadline: the time, as `time.monotonic()` gives it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            status = process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return "stopped: out of time"
    return "done" if status == 0 else f"failed with status {status}"


def run_parts(commands: dict[str, list[list[str]]], out: pathlib.Path, minutes: float) -> None:
    """Runs the commands of each part until the time is over; see `parts`."""
    begun = time.monotonic()
    deadline = begun + 60 * minutes - SECONDS_TO_SAVE
    for name, of_part in commands.items():
        for command in of_part:
            start = time.monotonic()
            if start >= deadline:
                print(f"{name}: not begun: out of time", flush=True)
                continue
            outcome = run_until(command, out / "output" / f"{name}.txt", deadline)
            print(
                f"{name}: {outcome}, {time.monotonic() - start:.0f} s of "
                f"{time.monotonic() - begun:.0f}: python {' '.join(command)}",
                flush=True,
            )


def seconds_to(rows: list[dict[str, float]], top1: float) -> float | None:
    """Returns the seconds of training and evaluation until an accuracy was reached; None if never.

    The start and the compilation do not count: the first epoch counts as long as the second.

    Args:
        rows: the rows of a run's metrics.jsonl.
        top1: the accuracy on the test images, in percent.
    """
    evaluated = [(row["time/seconds"], row["test/top1"]) for row in rows if "test/top1" in row]
    if len(evaluated) < 2:
        return None
    (first, _), (second, _) = evaluated[:2]
    reached = (seconds for seconds, accuracy in evaluated if accuracy >= top1)
    at = next(reached, None)
    return None if at is None else at - first + (second - first)


def times_page(runs: pathlib.Path) -> str:
    """Returns a page with the time that each run on CIFAR-10 took to 92% and 94%."""
    lines = [
        "# Time to an accuracy",
        "",
        "Seconds of training and evaluation on CIFAR-10's test images, without start and "
        "compilation. If several runs shared a device, they slowed each other down.",
        "",
        *("| run | 92% | 94% |", "|---|---|---|"),
    ]
    for path in sorted(runs.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        seconds = [seconds_to(rows, top1) for top1 in (92, 94)]
        if any(seconds):
            cells = ("-" if each is None else f"{each:.0f}" for each in seconds)
            lines.append(f"| {path.parent.relative_to(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def pack(folder: pathlib.Path, data_dir: str, wheels: str, python: str) -> None:
    """Writes what a machine without a network needs; see this module's docstring.

    Args:
        folder: where to write it.
        data_dir: folder of TFDS data sets that holds cifar10.
        wheels: file with the names and versions of the packages to download, or "".
        python: version of Python on the other machine, such as "3.12".

    Raises:
        UserError: if cifar10 is not prepared, or the code is no git repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = pathlib.Path(__file__).resolve().parent.parent
    data = pathlib.Path(data_dir).expanduser() / "cifar10"
    if not data.is_dir():
        raise UserError(f"there is no {data}; prepare cifar10 there, or give another --data_dir")
    code = ["git", "-C", str(root), "archive", f"--output={(folder / 'code.tar.gz').resolve()}"]
    if subprocess.run([*code, "HEAD"], check=False).returncode:
        raise UserError(f"{root} cannot be packed; --pack needs a clone of the repository")
    whole = folder / "data.tar"
    with tarfile.open(whole, "w") as archive:
        archive.add(data, "cifar10")
    with whole.open("rb") as file:
        place = 0
        while piece := file.read(PIECE_BYTES):
            (folder / f"data.tar.{place:02}").write_bytes(piece)
            place += 1
    whole.unlink()
    (folder / "unpack.sh").write_text(UNPACK)
    if wheels:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", f"--dest={folder}"]
        download += ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
        for minor in (17, 24, 27, 28):
            download.append(f"--platform=manylinux_2_{minor}_x86_64")
        subprocess.run([*download, "--platform=manylinux2014_x86_64", "-r", wheels], check=True)
    print(f"wrote {folder}; copy it to the other machine, and see {folder / 'unpack.sh'}")


def main(argv: list[str]) -> None:
    """Packs, or runs the parts."""
    options = flags.FLAGS
    if options.pack:
        data_dir = options.data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        pack(pathlib.Path(options.pack), data_dir, options.wheels, options.python)
        return
    if options.data_dir:
        os.environ["TFDS_DATA_DIR"] = options.data_dir
    commands = parts(options.out, options.runs, options.processes, options.note, options.smoke)
    if unknown := set(options.parts) - set(commands):
        raise UserError(f"there is no part {unknown.pop()}; there are {', '.join(commands)}")
    chosen = {name: commands[name] for name in options.parts}
    out = pathlib.Path(options.out)
    run_parts(chosen, out, options.minutes)
    (out / "time_to.md").write_text(times_page(pathlib.Path(options.runs)))


if __name__ == "__main__":
    restart_with_huge_pages()
    names = list(parts("", "", 1, "", False))
    flags.DEFINE_float("minutes", 25, "How long to run.", 1)
    flags.DEFINE_list("parts", names, "What to run, in this order.")
    flags.DEFINE_integer("processes", 8, "Runs of the studies to train at the same time.", 1)
    flags.DEFINE_bool("smoke", False, "Run everything at the smallest length.")
    flags.DEFINE_string("out", "experiments/results", "Folder for the results.")
    flags.DEFINE_string("runs", "runs/accelerator", "Folder for checkpoints and logs.")
    flags.DEFINE_string("note", "", "A sentence about the results of the studies.")
    flags.DEFINE_string("data_dir", "", "Folder of TFDS data sets; by default $TFDS_DATA_DIR.")
    flags.DEFINE_string("pack", "", "Write what another machine needs to this folder, and end.")
    flags.DEFINE_string("wheels", "", "A requirements file: packages to download for --pack.")
    flags.DEFINE_string("python", "3.12", "Python of the machine that --wheels are for.")
    app.run(run_command(main), flags_parser=parse_flags)
