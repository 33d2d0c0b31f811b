import itertools
import pathlib

import jax
import numpy as np

import se_flax
from se_flax import rng
from se_flax.rng import Stream

SEEDS = (0, 1, 2, 7, 2**32 - 1)
PACKAGE = pathlib.Path(se_flax.__file__).parent
# These use random values only for shapes, or for a classifier that the run replaces.
WITHOUT_A_SEED = {"burden.py", "pretrained/convert.py", "pretrained/save.py"}


def test_no_two_streams_share_a_key():
    streams = [rng.key(np.uint32(seed), stream) for seed in SEEDS for stream in Stream]
    roots = [jax.random.key(np.uint32(seed)) for seed in SEEDS]
    folded = [
        jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(500, dtype=np.uint32))
        for key in streams
    ]
    dropout = [
        jax.vmap(jax.random.fold_in, (None, 0))(step_key, np.arange(8, dtype=np.uint32))
        for step_key in folded[list(Stream).index(Stream.DROPOUT)][:50]
    ]
    data = [
        tuple(words)
        for keys in (*roots, *streams, *folded, *dropout)
        for words in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()
    ]
    assert len(set(data)) == len(data)


def test_no_two_generators_draw_the_same():
    indices = (*range(50), 2**31 - 1)
    draws = [
        rng.generator(seed, stream, index).integers(2**63)
        for seed, stream, index in itertools.product(SEEDS, Stream, indices)
    ]
    assert len(set(draws)) == len(draws)


def test_held_out_images_are_drawn_from_the_table():
    expected = np.random.default_rng([6, 0, 0]).random(3)
    np.testing.assert_array_equal(rng.generator(0, Stream.HOLD_OUT).random(3), expected)


def test_all_keys_and_generators_of_a_run_come_from_the_table():
    makers = ("random.key(", "PRNGKey(", "default_rng(", "RandomState(")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(maker in path.read_text() for maker in makers)
    }
    assert found - WITHOUT_A_SEED == {"rng.py"}
