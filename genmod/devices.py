"""One batch over many devices: functions for traced code.

A step is written for a whole batch. `train.over_devices` runs it on equal shares of the batch, in
one of two ways. A mapped step (`pmap`) sees the share of its device only, and must take means over
the devices. A partitioned step (`sharded`) sees the whole batch, which the compiler splits. Code
that uses these functions is correct in both ways, and on a single device, where they do nothing.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from genmod.types import Array

AXIS = "devices"
"""Name of the axis over which a batch is split.

A mapped step and a mesh both use it.
"""

_in_microbatch: contextvars.ContextVar[bool] = contextvars.ContextVar("microbatch", default=False)
_statistics: contextvars.ContextVar[tuple[list[str], ...]] = contextvars.ContextVar(
    "statistics", default=()
)
_whole: contextvars.ContextVar[bool] = contextvars.ContextVar("whole", default=False)
_partition: contextvars.ContextVar[NamedSharding | None] = contextvars.ContextVar(
    "partition", default=None
)


def axis() -> str | None:
    """Returns AXIS inside a mapped step, None elsewhere."""
    if _whole.get():
        return None
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return None
    return AXIS


def count() -> int:
    """Returns the number of shares into which a batch is split.

    It is 1 unless the step is mapped: other code sees the whole batch.
    """
    return jax.lax.axis_size(AXIS) if axis() else 1


def mean(tree: Any) -> Any:
    """Returns the mean over the devices of a mapped step.

    Each device contributes what it has computed from its share.
    """
    return jax.lax.pmean(tree, AXIS) if axis() else tree


def gather(x: Array) -> Array:
    """Gathers the values of all examples of a mapped step.

    The values [B / devices, ...] of each device's share become one array [B, ...].
    """
    return jax.lax.all_gather(x, AXIS, tiled=True) if axis() else x


def split(tree: Any) -> Any:
    """Splits arrays [B, ...] over the devices of a partitioned step.

    Each device then holds the part of its own examples.
    """
    sharding = _partition.get()
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Declares that code traced inside sees the whole batch on every device.

    The functions of this module then do nothing, though the step is mapped.
    """
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


@contextlib.contextmanager
def microbatch() -> Iterator[None]:
    """Declares that code traced inside sees a microbatch: not the whole batch."""
    token = _in_microbatch.set(True)
    try:
        yield
    finally:
        _in_microbatch.reset(token)


def refuse_microbatch(needs: str, hint: str = "") -> None:
    """Refuses to be part of a microbatch (gradient accumulation).

    Args:
      needs: what needs the whole batch, such as "top_k needs the logits".
      hint: what is the same in microbatches.

    Raises:
      ValueError: if the code sees a microbatch.
    """
    if _in_microbatch.get():
        raise ValueError(
            f"{needs} of the whole batch, which microbatches do not know: microbatches must be 1 "
            f"with it{hint and f' ({hint})'}"
        )


@contextlib.contextmanager
def batch_statistics() -> Iterator[list[str]]:
    """Yields a list of the layers that use statistics of their batch.

    A layer that is traced inside adds its name by `uses_batch_statistics`. What an example becomes
    then depends on the others, as in training with batch normalisation.
    """
    layers: list[str] = []
    token = _statistics.set((*_statistics.get(), layers))
    try:
        yield layers
    finally:
        _statistics.reset(token)


def uses_batch_statistics(layer: str) -> None:
    """Records the name of a layer that uses statistics of its batch."""
    for layers in _statistics.get():
        layers.append(layer)


@contextlib.contextmanager
def partitioned(sharding: NamedSharding) -> Iterator[None]:
    """Sets the sharding of `split` for a step traced inside."""
    token = _partition.set(sharding)
    try:
        yield
    finally:
        _partition.reset(token)


def agree(value: int, choose: Callable[[Sequence[int]], int] = max) -> int:
    """Returns one whole number on which all processes agree.

    `choose` picks it from the values of all processes. Their clocks differ and a signal reaches
    only one of them, but they must take the same steps. All processes must call this function at
    the same point.
    """
    if jax.process_count() == 1:
        return value
    return choose(multihost_utils.process_allgather(np.int32(value)).tolist())


def local(tree: Any) -> Any:
    """Copies arrays to the default device.

    Code that is not written for many devices can then use them. If an array is spread over
    processes, all of them must call this function.
    """

    def bring(leaf: Array) -> Array:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jnp.asarray(jax.device_get(leaf))
        return jnp.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(bring, tree)


def evenly(runs: int, most: int) -> int:
    """Returns the largest number of devices that share runs evenly.

    It is at most `most`.
    """
    return max(num for num in range(1, most + 1) if runs % num == 0)


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Places each array of a tree by a sharding.

    If the sharding spans processes, each of them must hold the same tree. Arrays that already span
    processes stay as they are.
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
