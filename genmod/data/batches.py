"""Batch number i as a pure function of (key, i): nothing to iterate, nothing to save."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.data.order import shuffled
from genmod.data.protocols import unit_interval
from genmod.types import Array, Batch, BatchAt, Key, Keys

Prepare = Callable[[Keys, Batch], Batch]


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

    # The batch touches at most two epochs: compute both orders, choose per example.
    order = rng.stream(key, "order")
    in_first = shuffled(rng.at_step(order, epoch[0]), position % num, num)
    if num % batch_size == 0:
        return in_first
    in_last = shuffled(rng.at_step(order, epoch[-1]), position % num, num)
    return jnp.where(epoch == epoch[0], in_first, in_last)


def batch_at(
    key: Key,
    step: int | Array,
    examples: Batch,
    *,
    batch_size: int,
    prepare: Prepare = unit_interval,
) -> Batch:
    """Batch number `step` of an endless sequence of shuffled epochs, those of `indices_at`.

    Args:
      key: the key of the data's order and of what `prepare` draws.
      step: number of the batch, from 0.
      examples: an array [N, ...], or a tree of them.
      batch_size: number of examples B in the batch, at most N.
      prepare: `(keys [B], raw examples) -> batch`, with fresh keys at every step; for instance
        `data.unit_interval` or `data.binarized`.

    Returns:
      The batch, [B, ...].

    Raises:
      ValueError: if batch_size is not positive or larger than the data.
    """
    num = checks.leading_axis("examples", examples)
    index = indices_at(key, step, num, batch_size=batch_size)

    def take(leaf: Array) -> Array:
        # As rows: a CPU copies those at once, images of one channel pixel by pixel.
        return leaf.reshape(num, -1)[index].reshape(batch_size, *leaf.shape[1:])

    keys = rng.per_example(rng.at_step(rng.stream(key, "prepare"), step), batch_size)
    return prepare(keys, jax.tree.map(take, examples))


def batches(examples: Batch, *, batch_size: int, prepare: Prepare = unit_interval) -> BatchAt:
    """`batch_at` with the examples put on the device: a function `(key, step) -> batch`.

    The arguments are those of `batch_at`, and are checked here. The result carries the examples as
    leaves of a tree (`jax.tree_util.Partial`): a compiled program that takes it as an argument
    takes the data as an argument too, instead of holding a copy as a constant.
    """
    examples = jax.tree.map(jnp.asarray, examples)
    at = functools.partial(_batch_at, batch_size, prepare)
    take = jax.tree_util.Partial(at, examples)
    jax.eval_shape(take, rng.root(0), 0)
    return take


def indices_of(batch_at: BatchAt, key: Key, step: int | Array) -> Array | None:
    """`indices_at` of what `batches` has made; None for any other source of batches."""
    if not isinstance(batch_at, jax.tree_util.Partial):
        return None
    at: Any = batch_at.func
    if getattr(at, "func", None) is not _batch_at:
        return None
    (examples,), batch_size = batch_at.args, at.args[0]
    num = checks.leading_axis("examples", examples)
    return indices_at(key, step, num, batch_size=batch_size)


def _batch_at(
    batch_size: int, prepare: Prepare, examples: Batch, key: Key, step: int | Array
) -> Batch:
    return batch_at(key, step, examples, batch_size=batch_size, prepare=prepare)
