"""A random order of n things, computed one position at a time."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

_ROUNDS = 12  # with fewer, orders of four or five things are not equally likely


def shuffled(key: Key[Array, ""], positions: Int[ArrayLike, " b"], n: int) -> Int[Array, " b"]:
    """Returns what stands at the given positions of an endless sequence of shuffles of 0..n-1.

    Positions 0 to n-1 are one random permutation of 0..n-1, positions n to 2n-1 another, and
    so on. Each value is computed from (key, position) alone, in constant time and memory, so
    a program can start anywhere in the sequence without having walked through it.

    The permutation is a Feistel network over the smallest 4^k >= n whose round function is
    JAX's own counter-based generator, walked along its cycle until it comes back below n
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, section 3). Such a network
    makes even permutations of its domain only, which nothing in a training run can tell.

    Args:
        key: scalar PRNG key.
        positions: int32, from 0.
        n: how many things there are, 1 to 2^30.
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
