"""A random permutation of n items, computed one position at a time."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

_ROUNDS = 12  # with fewer rounds, permutations of 4 or 5 items are not equally likely


def shuffled(key: Key[Array, ""], positions: Int[ArrayLike, " b"], n: int) -> Int[Array, " b"]:
    """Returns the values at positions of an endless sequence of random permutations of 0..n-1.

    Positions 0 to n-1 hold one random permutation of 0..n-1, positions n to 2n-1 another, and so
    on. Each value is computed from (key, position) alone, in constant time and memory, so a
    program can start anywhere in the sequence.

    The permutation is a Feistel network over the smallest 4^k >= n. Its round function is JAX's
    counter-based generator, and it is applied repeatedly until the value is below n (cycle
    walking; Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, section 3). Such a
    network generates only even permutations of its domain, which makes no difference to training.

    Args:
        key: scalar PRNG key.
        positions: positions from 0, int32 [b].
        n: number of items, 1 to 2^30.

    Returns:
        Values from 0 to n-1, int32 [b].
    """
    epochs, offsets = jnp.divmod(jnp.asarray(positions), n)
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = jnp.uint32((1 << half_bits) - 1)

    def permute(epoch_key, value):
        def one_round(round_, halves):
            left, right = halves
            hashed = jax.random.fold_in(epoch_key, (round_ << half_bits) | right)
            return right, left ^ (jax.random.key_data(hashed)[-1] & mask)

        left, right = jax.lax.fori_loop(
            jnp.uint32(0),
            jnp.uint32(_ROUNDS),
            one_round,
            (value >> half_bits, value & mask),
            unroll=True,
        )
        return (left << half_bits) | right

    def walk(epoch, offset):
        epoch_key = jax.random.fold_in(key, epoch)
        first = permute(epoch_key, offset.astype(jnp.uint32))
        return jax.lax.while_loop(lambda v: v >= n, lambda v: permute(epoch_key, v), first)

    return jax.vmap(walk)(epochs, offsets).astype(jnp.int32)
