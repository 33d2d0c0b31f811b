import collections

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from se_flax.data.shuffle import shuffled

draw = jax.jit(shuffled, static_argnums=2)


@settings(deadline=None, max_examples=10)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31 - 1))
def test_every_epoch_holds_every_item_once(n, seed):
    order = np.asarray(draw(jax.random.key(seed), jnp.arange(3 * n), n)).reshape(3, n)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(n), (3, 1)))


def test_a_position_gives_the_same_item_in_any_batch():
    key = jax.random.key(0)
    whole = draw(key, jnp.arange(300), 100)
    np.testing.assert_array_equal(draw(key, jnp.arange(95, 140), 100), whole[95:140])


def test_each_epoch_and_seed_has_its_own_order():
    orders = [
        tuple(np.asarray(draw(jax.random.key(seed), epoch * 50 + jnp.arange(50), 50)))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert len(set(orders)) == 6


def test_all_orders_of_four_are_equally_likely():
    orders = np.asarray(draw(jax.random.key(0), jnp.arange(4 * 24_000), 4)).reshape(-1, 4)
    counts = collections.Counter(map(tuple, orders))
    assert len(counts) == 24
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi_squared < 49.7  # one in a thousand, 23 degrees of freedom
