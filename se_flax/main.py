"""Trains a network: python -m se_flax.main --config=configs/quickstart.py.

Folders and files can also be in Google Cloud Storage (gs://BUCKET/FOLDER), which needs
pip install "se_flax[gcs]".
"""

import os
import pathlib
import shlex
import sys

from absl import app, flags
from ml_collections import ConfigDict

from se_flax.cli.command import INTERRUPTED, outlive_output, parse_flags, run_command
from se_flax.cli.config_files import find, similar
from se_flax.cli.config_flag import define_config_flag
from se_flax.errors import UserError, nearest
from se_flax.runtime.huge_pages import restart_with_huge_pages
from se_flax.runtime.terminal import say_last


def define_flags() -> None:
    """Declares the options of this command."""
    define_config_flag()
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder for the results, on a disk or in a bucket (gs://BUCKET/FOLDER); by default "
        "runs/<config name>.",
    )
    flags.DEFINE_string(
        "coordinator_address", None, "In a run of several processes, HOST:PORT of process 0."
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes of the run.", 1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", 0)
    flags.DEFINE_bool(
        "distributed",
        True,
        "Join the processes that Slurm, Open MPI or Cloud TPU started together with this one.",
    )


def default_workdir(config_filename: str) -> pathlib.Path:
    """Returns runs/<name>[_<argument>] for a config FILE[:ARGUMENT]."""
    path, _, argument = config_filename.partition(":")
    name = pathlib.Path(path).stem
    return pathlib.Path("runs") / (f"{name}_{argument}" if argument else name)


def next_steps(workdir: str | pathlib.Path, confusion: bool = True) -> list[str]:
    """Returns lines with the commands that show the results of a run.

    Args:
        workdir: of the run.
        confusion: whether there can be a confusion matrix: if each image has one class.
    """
    folder = shlex.quote(str(workdir))
    matrix = f"      python -m se_flax.analysis.confusion --workdir={folder}"
    return [
        f"next: python -m se_flax.evaluate --workdir={folder}",
        f"      python -m se_flax.predict --workdir={folder} PHOTOGRAPH",
        *([matrix] if confusion else []),
        f"      tensorboard --logdir={folder}",
    ]


def config_of_flags(options: flags.FlagValues) -> tuple[ConfigDict, str]:
    """Returns the config of --config and its FILE[:ARGUMENT]; raises `UserError` if unusable."""
    if not options["config"].present:
        raise UserError("--config=FILE is missing, for example --config=quickstart")
    filename = options["config"].config_filename
    name = filename.partition(":")[0]
    path = find(name)
    if not path.is_file():
        hint = nearest(name, similar(name)) or "; python -m se_flax configs lists those of se_flax"
        raise UserError(f'there is no config file "{path}"{hint}')
    config = options.config
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config() must return an ml_collections.ConfigDict, not "
            f"{type(config).__name__}"
        )
    return config, filename


def main(argv: list[str]) -> None:
    """Runs the training that the flags describe."""
    outlive_output()
    options = flags.FLAGS
    config, filename = config_of_flags(options)
    workdir = options.workdir or default_workdir(filename)
    try:
        from se_flax.detection.create import is_detector
        from se_flax.runtime.distributed import is_first, join
        from se_flax.train import RunInterrupted, train
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    others = (options.coordinator_address, options.num_processes, options.process_id)
    if options.distributed:
        join(*others)
    elif others != (None, None, None):
        raise UserError(
            "--nodistributed cannot be combined with --coordinator_address, --num_processes or "
            "--process_id; remove it or them"
        )
    try:
        train(config, workdir)
        if is_first():
            one_class = not (config.dataset.multi_label or is_detector(config.model.name))
            print("\n".join(next_steps(workdir, confusion=one_class)))
    except RunInterrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        say_last("stopped immediately; the same command resumes from the last checkpoint")
        os._exit(INTERRUPTED)  # does not wait for XLA's compilation threads


if __name__ == "__main__":
    restart_with_huge_pages()
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
