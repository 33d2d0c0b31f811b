"""Speed of the networks compared with other implementations: python -m experiments.speed.

Measures a training step and inference of ResNet-20, ResNet-50 and EfficientNet-B0, with SE blocks
and without. These implementations take turns in one process, several times each:

- se_flax;
- the same networks built from Flax's own layers (`experiments/peers/stock_flax.py`);
- PyTorch, eager and compiled, in channels-last memory: a ResNet-20 of this project
  (`experiments/peers/pytorch.py`), and timm's networks for the others.

A training step is forward, backward and an SGD update, on images that are already on the device.
Then it compares a whole training run with its bare steps, and several seeds computed at once with
one. It measures the time from the command to the first step, and images per second over batch size,
depth and number of devices. Results go to speed_<platform>.json, .md and .png in --out.

Then it compares single convolutions with PyTorch's, over map size, channels, kernel and stride.
These results go to convolutions_<platform>.json and .md. Last it compares Faster R-CNN with
torchvision's; these results go to detectors_<platform>.json and .md.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
from absl import app, flags

from experiments.speed import convolutions, detectors
from experiments.speed.implementations import IMPLEMENTATIONS, default_dtype
from experiments.speed.page import markdown
from experiments.speed.runs import (
    STARTUP_CONFIG,
    draw,
    measure_loop,
    measure_scaling,
    measure_seeds,
    measure_startup,
)
from experiments.speed.steps import NETWORKS, limits, measure_steps, ratios
from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError
from se_flax.overview import environment
from se_flax.runtime.compiler import compiler_options
from se_flax.runtime.huge_pages import restart_with_huge_pages

Results = dict[str, Any]


def add_steps(results: Results, path: pathlib.Path) -> None:
    """Measures single steps, and saves after each group of networks."""
    options = flags.FLAGS
    results["limits"] = limits()
    results["steps"] = [
        row for row in results.get("steps", ()) if row["network"] not in options.networks
    ]
    results["not_measured"] = [
        line
        for line in results.get("not_measured", ())
        if line.split(", ")[1] not in options.networks
    ]
    for rows, missing in measure_steps(
        options.networks, options.implementations, options.rounds, options.seconds
    ):
        results["steps"] += rows
        results["not_measured"] += missing
        for name, value in ratios(rows).items():
            print(f"{name}: {value:.2f}", flush=True)
        save(results, path)


def add_loop(results: Results, path: pathlib.Path) -> None:
    """Compares a run with its bare steps."""
    results["loop"] = measure_loop(flags.FLAGS.rounds)
    print(f"a run compared with its bare steps: {results['loop']['ratio']:.3f}", flush=True)


def add_seeds(results: Results, path: pathlib.Path) -> None:
    """Compares several seeds computed at once with one."""
    results["seeds"] = measure_seeds()
    for row in results["seeds"]:
        print(row, flush=True)


def add_startup(results: Results, path: pathlib.Path) -> None:
    """Measures the time to the first step."""
    results["startup"] = measure_startup(STARTUP_CONFIG)
    print(results["startup"], flush=True)


def add_scaling(results: Results, path: pathlib.Path) -> None:
    """Measures speed over batch size, depth and number of devices, and draws it."""
    results["scaling"] = measure_scaling()
    results["figure"] = f"{path.stem}.png"
    draw(results["scaling"], path.with_suffix(".png"))


def add_convolutions(results: Results, path: pathlib.Path) -> None:
    """Compares single convolutions with PyTorch's."""
    options = flags.FLAGS
    need_pytorch("convolutions")
    results |= {"note": options.note, "cores_used": convolutions.cores()}
    results["convolutions"] = []
    for row in convolutions.measure_convolutions(options.rounds, options.seconds / 100):
        results["convolutions"].append(row)
        ratios = (f"{each} {convolutions.ratio(row, each):.2f}" for each in convolutions.PASSES)
        print(*(row[field] for field in convolutions.FIELDS), *ratios, flush=True)
        save(results, path)


def add_detectors(results: Results, path: pathlib.Path) -> None:
    """Compares detectors with torchvision's."""
    need_pytorch("detectors")
    from experiments.peers import torchvision_detector

    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    results |= versions | {
        "torchvision_has_operators": torchvision_detector.has_operators(),
        "detectors": [],
    }
    for row in detectors.measure_detectors(flags.FLAGS.rounds, flags.FLAGS.seconds):
        results["detectors"].append(row)
        save(results, path)


def need_pytorch(section: str) -> None:
    """Raises `UserError` if PyTorch is not installed, which a section compares with."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"--section={section} compares with PyTorch, which is not installed; run "
            "`pip install -r requirements-references.txt`, or name other sections"
        )


SECTIONS = {
    "steps": add_steps,
    "loop": add_loop,
    "seeds": add_seeds,
    "startup": add_startup,
    "scaling": add_scaling,
    "convolutions": add_convolutions,
    "detectors": add_detectors,
}


def save(results: Results, path: pathlib.Path) -> None:
    """Writes the results as JSON."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def earlier_results(path: pathlib.Path, section: str) -> Results:
    """Returns the results already in a file, with what is true of this run and section.

    Raises:
        UserError: if they are from another machine, or other versions.
    """
    results = json.loads(path.read_text()) if path.exists() else {}
    about = {"environment": environment(), "dtype": default_dtype(), "cores": os.cpu_count()}
    for name, value in about.items():
        before, now = results.get(name, value), value
        if name == "environment":
            before, now = ({**each, "git_revision": None} for each in (before, now))
        if before != now:
            raise UserError(
                f"{path} was measured on another machine or version; give another --out"
            )
    results |= about
    results.setdefault("revisions", {})[section] = about["environment"]["git_revision"]
    return results


def run_each(sections: list[str]) -> None:
    """Runs each section in its own process, because XLA's options differ."""
    options = flags.FLAGS
    given = {name: options[name].value for name in ("out", "rounds", "seconds", "note")}
    given |= {name: ",".join(options[name].value) for name in ("networks", "implementations")}
    for section in sections:
        command = [sys.executable, "-m", "experiments.speed", f"--section={section}"]
        command += [f"--{name}={value}" for name, value in given.items()]
        if status := subprocess.run(command, check=False).returncode:
            sys.exit(status)


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_string("out", "experiments/results", "Folder for the results.")
    flags.DEFINE_multi_enum(
        "section", list(SECTIONS), list(SECTIONS), "What to measure; may be repeated."
    )
    flags.DEFINE_list("networks", NETWORKS, "Networks to measure; replaces their earlier results.")
    flags.DEFINE_list("implementations", list(IMPLEMENTATIONS), "Implementations to measure.")
    flags.DEFINE_integer("rounds", 7, "Number of rounds.", 1)
    flags.DEFINE_float(
        "seconds", 1.0, "Seconds per measurement in a round; a convolution gets a hundredth.", 0
    )
    flags.DEFINE_string("note", "", "A sentence that the page of convolutions shows.")


def main(argv: list[str]) -> None:
    """Measures, prints and writes the results."""
    options = flags.FLAGS
    for name, known in (("networks", NETWORKS), ("implementations", IMPLEMENTATIONS)):
        for value in options[name].value:
            if value not in known:
                raise UserError(f'--{name}: there is no "{value}"; known are {", ".join(known)}')
    if len(options.section) > 1:
        run_each(options.section)
        return
    (section,) = options.section
    jax.config.update("jax_enable_compilation_cache", False)  # the first run must compile
    if section == "steps":  # others must not be compiled with our options
        flags_of_xla = os.environ.get("XLA_FLAGS", "")
        for option, value in compiler_options().items():
            os.environ["XLA_FLAGS"] = flags_of_xla.replace(f"--{option}={value}", "")
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stem, page = ("speed", markdown)
    if section == "convolutions":
        stem, page = ("convolutions", convolutions.page)
    if section == "detectors":
        stem, page = ("detectors", detectors.page)
    path = out / f"{stem}_{jax.default_backend()}.json"
    results = earlier_results(path, section)
    SECTIONS[section](results, path)
    save(results, path)
    path.with_suffix(".md").write_text(page(results))
    print(f"\n{page(results)}")


if __name__ == "__main__":
    restart_with_huge_pages()
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
