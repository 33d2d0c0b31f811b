"""Trains a network: python -m se_flax.main --config=configs/quickstart.py."""

import os
import pathlib
import sys

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from se_flax.cli.command import INTERRUPTED, outlive_output, parse_flags, run_command
from se_flax.errors import UserError, nearest


def define_flags() -> None:
    """Declares the options of this command."""
    config_flags.DEFINE_config_file(
        "config", None, "File that describes the run, and after a colon its argument."
    )
    flags.DEFINE_string(
        "workdir", None, "Folder for the results; by default runs/<name of the config>."
    )
    flags.DEFINE_string(
        "coordinator_address", None, "Of a run of several processes: HOST:PORT of process 0."
    )
    flags.DEFINE_integer("num_processes", None, "How many processes the run has.", 1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
    flags.DEFINE_bool(
        "distributed",
        True,
        "Join the other processes that Slurm, Open MPI or Cloud TPU started with this one.",
    )


def default_workdir(config_filename: str) -> pathlib.Path:
    """Returns runs/<name>[_<argument>] for a config FILE[:argument]."""
    path, _, argument = config_filename.partition(":")
    name = pathlib.Path(path).stem
    return pathlib.Path("runs") / (f"{name}_{argument}" if argument else name)


def config_of_flags(options: flags.FlagValues) -> tuple[ConfigDict, str]:
    """Returns the config that --config names, and FILE[:argument]; raises `UserError` if none."""
    if not options["config"].present:
        raise UserError("--config=FILE is missing, for example --config=configs/quickstart.py")
    filename = options["config"].config_filename
    path = pathlib.Path(filename.partition(":")[0])
    if not path.is_file():
        others = [str(other) for other in path.parent.glob("*.py")]
        raise UserError(f'there is no config file "{path}"{nearest(str(path), others)}')
    config = options.config
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config() returned {type(config).__name__}, not an "
            "ml_collections.ConfigDict"
        )
    return config, filename


def main(argv: list[str]) -> None:
    """Trains what the flags describe."""
    outlive_output()
    options = flags.FLAGS
    config, filename = config_of_flags(options)
    workdir = options.workdir or default_workdir(filename)
    if "://" in str(workdir):
        raise UserError(
            f"--workdir must be a folder, not {workdir}; mount a bucket first, for example with "
            "gcsfuse"
        )
    try:
        from se_flax.runtime.distributed import join
        from se_flax.train import RunInterrupted, train
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    others = (options.coordinator_address, options.num_processes, options.process_id)
    if options.distributed:
        join(*others)
    elif others != (None, None, None):
        raise UserError("--nodistributed does not go with flags that name other processes")
    try:
        train(config, workdir)
    except RunInterrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # without waiting for what XLA compiles in threads of its own


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
