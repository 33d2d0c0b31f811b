"""A run that is exported and published."""

import pathlib

import pytest

from se_flax.train import train
from tests import tiny_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """The workdir of a small SE-ResNet on the digits, trained for an epoch."""
    config = tiny_run.get_config()
    config.num_epochs = 1
    workdir = tmp_path_factory.mktemp("run")
    train(config, workdir)
    return workdir
