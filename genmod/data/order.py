"""Shuffled order of examples, with random access.

The usual way to shuffle an epoch sorts an array of random numbers. Its work and memory are
proportional to the data set, and the position in the array must be saved. In contrast, this module
computes the index at any position by itself, with a keyed bijection of the index range: a Feistel
network (Luby & Rackoff 1988; generalised to any range by Black & Rogaway 2002). Each round shifts
one half of a mixed-radix number by a keyed hash of the other half, in turn. Such a shift can be
undone, so the network is a bijection for any hash.
"""

import math

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key


def _num_rounds(num: int) -> int:
    """Returns the number of rounds of the Feistel network.

    After these rounds the orders pass all statistical tests of `tests/data/test_order.py`. Four
    rounds are enough for large ranges (Luby & Rackoff); ranges of tens of examples need more.
    """
    return 10 if num >= 64 else 16


def shuffled(key: Key, position: Array, num: int) -> Array:
    """Returns the index at each position of an epoch.

    For a fixed key this is a bijection of [0, num). Each position costs the same few operations for
    any num.

    Args:
      key: the epoch's key.
      position: integers in [0, num), any shape.
      num: number of examples, below 2**31.

    Returns:
      Indices in [0, num), int32, with the shape of position.

    Raises:
      ValueError: if num is not a positive whole number below 2**31.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import data, rng
      >>> order = data.shuffled(rng.root(0), jnp.arange(5), 5)
      >>> sorted(order.tolist())  # a permutation of 0 .. 4, computed position by position
      [0, 1, 2, 3, 4]
    """
    num = checks.positive_integer("num", num)
    if num >= 2**31:
        raise ValueError(f"num must be below 2**31, got {num}")
    return _permuted(_round_keys(key, num), position, num)


def _round_keys(key: Key, num: int) -> Array:
    return jax.random.bits(key, (_num_rounds(num),), jnp.uint32)


def _permuted(round_keys: Array, position: Array, num: int) -> Array:
    """Returns the index at each position, given the round keys.

    The round keys are [rounds] for a single epoch, or [..., rounds] with one epoch per position.
    """
    # The product left * right exceeds num only slightly. At least one of the two must be even: if
    # both are odd, the shifts yield only even permutations.
    left = math.isqrt(num - 1) + 1
    left += left % 2
    right = -(-num // left)

    def permute(value: Array) -> Array:
        high, low = value // right, value % right
        for index in range(0, _num_rounds(num), 2):
            high = (high + _hash(low ^ round_keys[..., index]) % left) % left
            low = (low + _hash(high ^ round_keys[..., index + 1]) % right) % right
        return high * right + low

    # Cycle walking permutes a value outside the range again until it falls inside. Few values need
    # it.
    def walk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        value, outside = state
        value = jnp.where(outside, permute(value), value)
        return value, value >= num

    begin = (position.astype(jnp.uint32), jnp.full(position.shape, True))
    value, _ = jax.lax.while_loop(lambda state: jnp.any(state[1]), walk, begin)
    return value.astype(jnp.int32)


def indices_at(key: Key, step: int | Array, num: int, *, batch_size: int) -> Array:
    """Returns the indices of the examples in batch number `step`.

    The batches run through an endless sequence of shuffled epochs, each of which holds every
    example exactly once. If batch_size does not divide the number of examples, some batches take
    the rest of one epoch and the beginning of the next, so no example is dropped.

    Args:
      key: key of the data's order, as in `batch_at`.
      step: number of the batch, from 0.
      num: number of examples N.
      batch_size: number of examples B in the batch, at most N.

    Returns:
      Indices into the data set, in [0, N), int32 [B], in the order of the batch.

    Raises:
      ValueError: if batch_size is not positive or larger than the data.
    """
    if checks.positive_integer("batch_size", batch_size) > num:
        raise ValueError(
            f"batch_size must be at most the number of examples {num}, got {batch_size}"
        )
    # Positions are counted within a cycle of whole batches and whole epochs. Thus
    # step * batch_size cannot overflow 32 bits, however long the run is.
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
    # The batch touches at most two epochs. Draw the round keys of both and choose per example.
    ends = jnp.stack([epoch[0], epoch[-1]])
    keys = jax.vmap(rng.at_step, (None, 0))(order, ends)
    round_keys = jax.vmap(lambda one: _round_keys(one, num))(keys)
    return _permuted(round_keys[(epoch != epoch[0]).astype(jnp.int32)], position % num, num)


def _hash(x: Array) -> Array:
    """Hashes 32-bit integers.

    Each input bit flips each output bit with a probability near 1/2. The constants for
    multiplication and shift are from Wellons, "Prospecting for hash functions" (2018).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
