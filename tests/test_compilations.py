"""What a run compiles: the cache of compiled programs serves the runs of a study, too."""

import pathlib

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from se_flax.program import build_program


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    """A cache of compiled programs that no other test writes to."""
    shared = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", shared)
    reset_cache()


def compiled(config, dataset):
    """Takes a step and evaluates; returns the names of mapped steps in the cache of programs."""
    program = build_program(config, dataset)
    state, sums = program.train(program.initial_state(), 0, 1)
    jax.block_until_ready(sums)
    program.evaluate(state, "test")
    cache = pathlib.Path(jax.config.jax_compilation_cache_dir)
    # As `jax.pmap` calls them.
    return {path.name for path in cache.iterdir() if path.name.startswith(("jit__fun", "pmap"))}


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
    before = compiled(tiny_config, stripes)
    assert before
    tiny_config.update_from_flattened_dict(changes)
    assert compiled(tiny_config, stripes) == before


def test_a_run_with_another_network_compiles_another_step(tiny_config, stripes):
    before = compiled(tiny_config, stripes)
    tiny_config.model.overrides.reduction = 4
    assert compiled(tiny_config, stripes) > before
