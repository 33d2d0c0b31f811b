"""Checks the config of a command line of se_flax.main: python -m tests.accepts OPTIONS."""

import sys

from absl import flags

from se_flax.cli.command import parse_flags
from se_flax.config import check_config
from se_flax.main import config_of_flags, define_flags

if __name__ == "__main__":
    define_flags()
    parse_flags(sys.argv)
    config, _ = config_of_flags(flags.FLAGS)
    check_config(config)
