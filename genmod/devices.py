"""One batch over many devices: what a step must know of it while it is traced.

A step is written for a whole batch. `train.over_devices` runs it on equal shares of one: mapped, so
that the code sees its share alone and takes means over the devices too, or partitioned by the
compiler, so that the code sees the whole. Code that uses these functions is right in both, and on a
single device, where they do nothing.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from genmod.types import Array

AXIS = "devices"
"""Name of the axis over which a batch is split: of a mapped step, and of a mesh."""

MICROBATCHES = "microbatches"
"""The cut of a batch whose gradient is taken microbatch by microbatch, to save memory."""


class Cut(NamedTuple):
    """How code sees less, or other, than a whole batch in its order.

    Attributes:
      what: what cuts, such as `"microbatches"`.
      size: number of consecutive examples that lie together; None where they do not, as in parts
        that hold the examples i, i + num, ... each.
    """

    what: str
    size: int | None


_cuts: contextvars.ContextVar[tuple[Cut, ...]] = contextvars.ContextVar("cuts", default=())
_partition: contextvars.ContextVar[NamedSharding | None] = contextvars.ContextVar(
    "partition", default=None
)


def axis() -> str | None:
    """AXIS inside of a step that is mapped over devices, None elsewhere."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return None
    return AXIS


def count() -> int:
    """How many shares of the batch the code does not see: 1 unless the step is mapped."""
    return jax.lax.axis_size(AXIS) if axis() else 1


def mean(tree: Any) -> Any:
    """The mean over the devices of a mapped step, of what each has computed from its share."""
    return jax.lax.pmean(tree, AXIS) if axis() else tree


def gather(x: Array) -> Array:
    """All examples' values, [B, ...], from those of this device's share, [B / devices, ...]."""
    return jax.lax.all_gather(x, AXIS, tiled=True) if axis() else x


def split(tree: Any) -> Any:
    """Arrays [B, ...], each device of a partitioned step holding its examples' part of them."""
    sharding = _partition.get()
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


@contextlib.contextmanager
def cut(what: str, size: int | None = None) -> Iterator[None]:
    """While code is traced here, its batch is a cut of another: see `Cut`."""
    token = _cuts.set((*_cuts.get(), Cut(what, size)))
    try:
        yield
    finally:
        _cuts.reset(token)


def cuts() -> tuple[Cut, ...]:
    """How the batch that the code sees was cut, the outermost cut first; empty for a whole one."""
    return _cuts.get()


@contextlib.contextmanager
def partitioned(sharding: NamedSharding) -> Iterator[None]:
    """While a step is traced here, `split` splits so."""
    token = _partition.set(sharding)
    try:
        yield
    finally:
        _partition.reset(token)


def agree(value: int, choose: Callable[[Sequence[int]], int] = max) -> int:
    """A whole number that all processes of a run choose together, from what each of them says.

    Their clocks differ and a signal reaches one of them, but their steps must be the same: all of
    them must call this at the same point.
    """
    if jax.process_count() == 1:
        return value
    return choose(multihost_utils.process_allgather(np.int32(value)).tolist())


def local(tree: Any) -> Any:
    """The same arrays on the default device alone, for what is not written for many.

    Where an array is spread over processes, all of them must call this.
    """

    def bring(leaf: Array) -> Array:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jnp.asarray(jax.device_get(leaf))
        return jnp.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(bring, tree)


def evenly(runs: int, most: int) -> int:
    """How many devices, at most so many, can share runs evenly."""
    return max(num for num in range(1, most + 1) if runs % num == 0)


def place(tree: Any, sharding: NamedSharding) -> Any:
    """A tree of arrays, each placed by a sharding.

    Where that spans processes, each of them must hold the same tree; arrays that span them already
    stay as they are.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)
