"""The order of examples: a keyed bijection of the index range, with random access.

A shuffled epoch is usually a sorted array of random numbers: work and memory proportional to the
data set, and a place in it to save. Here the index at any position is computed alone, by a Feistel
network over the index range (Luby & Rackoff 1988; generalised to any range by Black & Rogaway
2002): alternate halves of a mixed-radix number are shifted by a keyed hash of the other half, which
can be undone and is therefore a bijection, whatever the hash.
"""

import math

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key


def _num_rounds(num: int) -> int:
    """Rounds after which no statistic of `tests/test_data_order.py` tells orders from random ones.

    Four pass for random on large ranges (Luby & Rackoff); ranges of tens of examples need more.
    """
    return 10 if num >= 64 else 16


def shuffled(key: Key, position: Array, num: int) -> Array:
    """The index, in [0, num), of the example at each position of an epoch.

    For a fixed key this is a bijection of [0, num); each position costs the same few operations,
    whatever num is.

    Args:
      key: the epoch's key.
      position: integers in [0, num), any shape.
      num: number of examples, below 2**31.

    Returns:
      int32 indices, of position's shape.
    """
    num = checks.positive_integer("num", num)
    if num >= 2**31:
        raise ValueError(f"num must be below 2**31, got {num}")
    return _permuted(_round_keys(key, num), position, num)


def _round_keys(key: Key, num: int) -> Array:
    return jax.random.bits(key, (_num_rounds(num),), jnp.uint32)


def _permuted(round_keys: Array, position: Array, num: int) -> Array:
    """The index at each position, by round keys [..., rounds] of one epoch or of each."""
    # [0, num) sits inside left * right, which exceeds it by few. One of the two is even: shifts by
    # halves that are both odd make even permutations alone.
    left = math.isqrt(num - 1) + 1
    left += left % 2
    right = -(-num // left)

    def permute(value: Array) -> Array:
        high, low = value // right, value % right
        for index in range(0, _num_rounds(num), 2):
            high = (high + _hash(low ^ round_keys[..., index]) % left) % left
            low = (low + _hash(high ^ round_keys[..., index + 1]) % right) % right
        return high * right + low

    # Cycle walking: a value outside the range is permuted again until it falls inside. Few do.
    def walk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        value, outside = state
        value = jnp.where(outside, permute(value), value)
        return value, value >= num

    begin = (position.astype(jnp.uint32), jnp.full(position.shape, True))
    value, _ = jax.lax.while_loop(lambda state: jnp.any(state[1]), walk, begin)
    return value.astype(jnp.int32)


def indices_at(key: Key, step: int | Array, num: int, *, batch_size: int) -> Array:
    """Which examples batch number `step` holds, in an endless sequence of shuffled epochs.

    Every epoch holds every example exactly once. Where batch_size does not divide the number of
    examples, a batch takes the rest of one epoch and the beginning of the next: nothing is dropped.

    Args:
      key: the key of the data, as for `batch_at`.
      step: number of the batch, from 0.
      num: number of examples N.
      batch_size: number of examples B in the batch, at most N.

    Returns:
      Places in the data set, in [0, N), int32 [B], in the order of the batch.

    Raises:
      ValueError: if batch_size is not positive or larger than the data.
    """
    if checks.positive_integer("batch_size", batch_size) > num:
        raise ValueError(
            f"batch_size must be at most the number of examples {num}, got {batch_size}"
        )
    # Positions are counted within a cycle of whole batches and whole epochs, so that step *
    # batch_size cannot overflow 32 bits however long the run.
    cycle = math.lcm(num, batch_size)
    if cycle >= 2**32:
        raise ValueError(
            f"batch_size {batch_size} and the number of examples {num} have the least common "
            f"multiple {cycle}; expected one below 2**32: choose a batch_size that shares a "
            "factor with the number of examples"
        )
    step = jnp.asarray(step, jnp.uint32)
    cycles, step_in_cycle = step // (cycle // batch_size), step % (cycle // batch_size)
    position = step_in_cycle * batch_size + jnp.arange(batch_size, dtype=jnp.uint32)
    epoch = cycles * (cycle // num) + position // num

    order = rng.stream(key, "order")
    if num % batch_size == 0:
        return shuffled(rng.at_step(order, epoch[0]), position % num, num)
    # The batch touches at most two epochs: draw the round keys of both, choose for each example.
    ends = jnp.stack([epoch[0], epoch[-1]])
    keys = jax.vmap(rng.at_step, (None, 0))(order, ends)
    round_keys = jax.vmap(lambda one: _round_keys(one, num))(keys)
    return _permuted(round_keys[(epoch != epoch[0]).astype(jnp.int32)], position % num, num)


def _hash(x: Array) -> Array:
    """A 32-bit integer hash whose every input bit flips each output bit with a chance near 1/2.

    Multiplication and shift constants: Wellons, "Prospecting for hash functions" (2018).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
