"""What a run compiles: the cache of compiled programs serves the runs of a study, too."""

import pathlib

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from se_flax.program import build_program
from tests import tiny_run


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory, stripes):
    """A cache of compiled programs that no other file writes to, with those of a tiny run."""
    shared = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    reset_cache()
    config = tiny_run.get_config()
    config.batch_size = 16
    assert newly_compiled(config, stripes)
    yield
    jax.config.update("jax_compilation_cache_dir", shared)
    reset_cache()


def mapped_steps():
    """Returns the names of mapped steps in the cache of programs."""
    cache = pathlib.Path(jax.config.jax_compilation_cache_dir)
    # As `jax.pmap` calls them.
    return {path.name for path in cache.iterdir() if path.name.startswith(("jit__fun", "pmap"))}


def newly_compiled(config, dataset):
    """Takes a step and evaluates; returns the names of mapped steps that this compiled."""
    before = mapped_steps()
    program = build_program(config, dataset)
    state, sums = program.train(program.initial_state(), 0, 1)
    jax.block_until_ready(sums)
    program.evaluate(state, "test")
    return mapped_steps() - before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"optimizer.learning_rate": 0.2},
        {"optimizer.weight_decay": 5e-4},
        {"num_epochs": 9, "schedule.milestones": (5, 7)},
        {"schedule.name": "cosine", "schedule.warmup_epochs": 2.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_run_that_differs_in_numbers_compiles_no_other_step(tiny_config, stripes, changes):
    tiny_config.update_from_flattened_dict(changes)
    assert not newly_compiled(tiny_config, stripes)


def test_a_run_with_another_network_compiles_another_step(tiny_config, stripes):
    tiny_config.model.overrides.reduction = 4
    assert newly_compiled(tiny_config, stripes)
