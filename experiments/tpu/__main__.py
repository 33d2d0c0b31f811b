"""This project's programs compiled for TPUs, without a TPU: python -m experiments.tpu.

Compiles the published runs with the TPU compiler (package libtpu): the training step, the program
of many steps for images that are held on the devices, and inference, next to the same networks made
of Flax's own layers. It notes whether each compiles, what memory it needs, and the compiler's count
of operations and bytes and its estimate of the time. Results go to tpu.json and tpu.md in --out.

This takes hours. Each result is saved at once. If the command is stopped, giving it again compiles
what is still missing.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags

from experiments.tpu.chips import Topology
from experiments.tpu.page import page
from experiments.tpu.programs import (
    IMPLEMENTATIONS,
    PROGRAMS,
    Program,
    key,
    programs_of,
    remedies,
    select,
)
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError, check_choice
from se_flax.overview import environment
from se_flax.runtime.storage import write_json, write_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
# They would change what is compiled, or hide how long it takes.
NOT_PASSED_ON = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS")
Results = dict[str, Any]


def compile_apart(program: Program, seconds: float) -> dict[str, Any]:
    """Compiles a program in a process of its own, which a crash of the compiler ends alone.

    Args:
        program: the program.
        seconds: the longest time that it may take.

    Returns:
        What its row says (see `compile.compiled`).
    """
    variables = {name: os.environ[name] for name in os.environ if name not in NOT_PASSED_ON}
    variables |= Topology.of(program.topology).environment
    with tempfile.TemporaryDirectory() as folder:
        output, errors = pathlib.Path(folder, "row.json"), pathlib.Path(folder, "errors")
        command = [sys.executable, "-m", "experiments.tpu.compile"]
        command += [json.dumps(dataclasses.asdict(program)), str(output)]
        with errors.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=file
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return {"compiles": False, "reason": f"not compiled in {seconds / 60:g} minutes"}
            finally:
                process.kill()
                process.wait()
        if output.exists():
            return json.loads(output.read_text())
        return {"compiles": False, "reason": crash(status, errors.read_text(errors="replace"))}


def crash(status: int, errors: str) -> str:
    """Returns why a process ended without a result, in a line.

    Args:
        status: its exit status, negative if a signal ended it.
        errors: what it wrote to stderr.
    """
    ended = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    if status == -signal.SIGKILL:
        ended += ", perhaps because this machine has too little memory"
    lines = [line.strip() for line in errors.splitlines()]
    said = [line for line in lines if line.startswith("F") or "Error: " in line]
    last = (said or [line for line in lines if line] or [""])[-1]
    return f"the compiler crashed ({ended}): {last}"[:200].removesuffix(": ")


def versions() -> dict[str, str]:
    """Returns the versions on which results depend.

    Raises:
        UserError: if the TPU compiler is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler is not installed; run `pip install -r requirements-tpu.txt`, which "
            "needs no TPU"
        )
    names = ("jax", "jaxlib", "libtpu", "flax")
    return {name: importlib.metadata.version(name) for name in names}


def earlier_results(path: pathlib.Path, now: dict[str, str]) -> Results:
    """Returns the results in a file, or empty ones.

    Args:
        path: the file.
        now: the versions installed.

    Raises:
        UserError: if the results are from other versions.
    """
    results = json.loads(path.read_text()) if path.exists() else {"versions": now, "rows": []}
    for name, version in now.items():
        if results["versions"][name] != version:
            raise UserError(
                f"{path} was made with {name} {results['versions'][name]}, and here is {version}; "
                "give another --out"
            )
    return results


def missing(
    programs: list[Program], results: Results, only: set[Program] | None = None
) -> list[Program]:
    """Returns the programs that have no result, and those that save memory where one does not fit.

    Args:
        programs: the programs.
        results: the results.
        only: programs whose results count; None for all.
    """
    rows = {key(row): row for row in results["rows"]}
    queue, without = list(programs), []
    for program in queue:  # which grows
        if program in rows and (only is None or program in only):
            queue += remedies(program, rows[program])
        else:
            without.append(program)
    return without


def compile_each(
    programs: list[Program],
    results: Results,
    path: pathlib.Path,
    compile_one: Callable[[Program], dict[str, Any]],
    again: bool = False,
) -> None:
    """Compiles the programs that are missing, and saves the results after each.

    Args:
        programs: the programs.
        results: earlier results, which get a row for each program.
        path: the results' file; the page is next to it.
        compile_one: compiles a program (see `compile_apart`).
        again: whether to compile those that have a result as well.
    """
    revision = environment()["git_revision"] or "unknown"
    done: set[Program] = set()
    while left := missing(programs, results, done if again else None):
        program = left[0]
        print(f"{len(left)} left; {program.words}", end=": ", flush=True)
        row = dataclasses.asdict(program) | compile_one(program) | {"revision": revision}
        results["rows"] = [each for each in results["rows"] if key(each) != program] + [row]
        done.add(program)
        write_json(path, results, indent=1)
        write_text(path.with_suffix(".md"), page(results))
        said = f"{row['compile_seconds']:.0f} s" if row["compiles"] else row["reason"]
        print(said, flush=True)


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("out", "experiments/results", "Folder for the results.")
    flags.DEFINE_list(
        "topologies", ["v5e:2x4", "v5e:4x8"], "TPUs to compile for, such as v4:2x2x1 or v6e:2x2."
    )
    flags.DEFINE_list("programs", list(PROGRAMS), f"Programs to compile: {', '.join(PROGRAMS)}.")
    flags.DEFINE_list("networks", ["*"], "Networks, as shell patterns: 'se_resnet*_cifar'.")
    flags.DEFINE_list("implementations", list(IMPLEMENTATIONS), "Implementations to compile.")
    flags.DEFINE_integer("images_per_chip", 0, "Images on a chip; 0: the published batch.", 0)
    flags.DEFINE_bool("list", False, "Say which programs have results, and compile nothing.")
    flags.DEFINE_bool("again", False, "Compile again what has a result.")
    flags.DEFINE_float("minutes", 120.0, "Longest time for one program.", 0)


def main(argv: list[str]) -> None:
    """Compiles what is missing, prints and writes the results."""
    options = flags.FLAGS
    for topology in options.topologies:
        Topology.of(topology)
    for name, known in (("programs", PROGRAMS), ("implementations", IMPLEMENTATIONS)):
        for value in options[name].value:
            check_choice(f"--{name}", value, known)
    programs = programs_of(
        select(options.networks),
        options.programs,
        options.implementations,
        options.topologies,
        options.images_per_chip,
    )
    path = pathlib.Path(options.out, "tpu.json")
    if options.list:
        results = json.loads(path.read_text()) if path.exists() else {"rows": []}
        not_yet = missing(programs, results)
        for program in dict.fromkeys(programs + not_yet):
            print("missing " if program in not_yet else "compiled", program.words)
        return
    results = earlier_results(path, versions())
    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path.parent.mkdir(parents=True, exist_ok=True)
    compile_one = functools.partial(compile_apart, seconds=60 * options.minutes)
    compile_each(programs, results, path, compile_one, options.again)
    print(f"\n{page(results)}")


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
