"""Batches of several data sets side by side."""

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from genmod import checks, devices, rng
from genmod.data.compiled import Compiled
from genmod.types import Array, BatchAt, Key, Keys, Parts, Stream


def together(**batch_ats: BatchAt) -> BatchAt:
    """Makes batches of several data sets side by side.

        (key, step) -> Parts(name=batch, ...)

    Each part has its own batch size, order and preprocessing. Part `name` is the batch that its
    function returns for the key `rng.stream(key, name)`, so adding a part changes no other. Parts
    may be streamed or on the device. If any is streamed, the result is a `genmod.types.Stream`,
    with bit-identical batches.

    Args:
      **batch_ats: functions `(key, step) -> batch [B, ...]` by name, as from `data.batches`.

    Raises:
      ValueError: if there is no part, a name is not an identifier, a part is not callable, or its
        batch is not an array or a tree of arrays with one common leading axis.

    Example:
      >>> import numpy as np
      >>> from genmod import data, rng
      >>> def numbers(num, size):
      ...     return data.batches(np.arange(num), batch_size=size, prepare=data.unchanged)
      >>> batch_at = data.together(labelled=numbers(4, 2), unlabelled=numbers(60, 30))
      >>> batch = batch_at(rng.root(0), 0)
      >>> {name: part.shape for name, part in batch.items()}
      {'labelled': (2,), 'unlabelled': (30,)}
    """
    if not batch_ats:
        raise ValueError("together must get at least one part, name=batch_at, got none")
    for name, batch_at in batch_ats.items():
        if not name.isidentifier():
            raise ValueError(f"the name of a part must be an identifier, got {name!r}")
        if not callable(batch_at):
            raise ValueError(
                f"part {name!r} must be a function (key, step) -> batch, as from data.batches, got "
                f"{checks.described(batch_at)}"
            )
        _check(name, batch_at)
    if any(isinstance(batch_at, Stream) for batch_at in batch_ats.values()):
        return Together(batch_ats)
    return _beside(Compiled(_batch_at), batch_ats)


def parts_of(batch_at: BatchAt) -> Mapping[str, BatchAt] | None:
    """Returns the parts by name; None unless `together` made `batch_at`."""
    if isinstance(batch_at, Together):
        return batch_at.batch_ats
    if not isinstance(batch_at, jax.tree_util.Partial):
        return None
    function = getattr(batch_at.func, "function", None)
    return batch_at.args[0] if function is _batch_at else None


class Together:
    """Batches side by side, of which the host reads some.

    This is a `genmod.types.Stream`.

    Attributes:
      batch_ats: functions `(key, step) -> batch` by name.
    """

    def __init__(self, batch_ats: Mapping[str, BatchAt]):
        self.batch_ats = dict(batch_ats)
        # All parts of a stream call this one function, so that they serve one compiled program.
        self._batch_at = Compiled(_batch_at)

    def __call__(self, key: Key, step: int | Array) -> Parts:
        """Reads and returns the batches of a step."""
        return _batch_at(self.batch_ats, key, step)

    def shapes(self, keys: Keys) -> jax.tree_util.Partial:
        """Returns the shapes of a part, as `genmod.types.Stream` defines."""
        shapes = {
            name: at.shapes(rng.stream(keys, name)) if isinstance(at, Stream) else at
            for name, at in self.batch_ats.items()
        }
        return _beside(self._batch_at, shapes)

    def parts(
        self, keys: Keys, first: int, num: int, sharding: NamedSharding | None = None
    ) -> Generator[tuple[jax.tree_util.Partial, int]]:
        """Yields the parts, as `genmod.types.Stream` defines.

        Each lasts as long as all streams can serve it. A stream that can serve more steps goes on
        with what it has read.
        """
        now = {name: at for name, at in self.batch_ats.items() if not isinstance(at, Stream)}
        if sharding is not None:
            whole = NamedSharding(sharding.mesh, PartitionSpec())
            now = {name: devices.place(_as_argument(at), whole) for name, at in now.items()}
        with contextlib.ExitStack() as stack:
            streams = {
                name: stack.enter_context(
                    contextlib.closing(at.parts(rng.stream(keys, name), first, num, sharding))
                )
                for name, at in self.batch_ats.items()
                if isinstance(at, Stream)
            }
            step, ends = first, dict.fromkeys(streams, first)
            while step < first + num:
                for name in [name for name, end in ends.items() if end == step]:
                    now[name], steps = next(streams[name])
                    ends[name] += steps
                until = min(ends.values())
                yield _beside(self._batch_at, now), until - step
                step = until


def _as_argument(batch_at: BatchAt) -> jax.tree_util.Partial:
    """Returns `batch_at` as a tree, whose arrays are arguments of a compiled program."""
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    return batch_at if is_tree else jax.tree_util.Partial(batch_at)


def _beside(batch_at: Compiled, batch_ats: Mapping[str, BatchAt]) -> jax.tree_util.Partial:
    ats = {name: _as_argument(at) for name, at in batch_ats.items()}
    return jax.tree_util.Partial(batch_at, ats)


def _batch_at(batch_ats: Mapping[str, BatchAt], key: Key, step: Any) -> Parts:
    return Parts({name: at(rng.stream(key, name), step) for name, at in batch_ats.items()})


def _check(name: str, batch_at: Any) -> None:
    """Refuses a part whose batches have no common leading axis."""
    key = rng.root(0)
    at = batch_at.shapes(key[None]) if isinstance(batch_at, Stream) else _as_argument(batch_at)
    batch = jax.eval_shape(lambda at: at(key, 0), at)
    if isinstance(batch, Parts):
        raise ValueError(
            f"part {name!r} must not have parts itself, got {', '.join(map(repr, batch))}; give "
            "these to the same data.together"
        )
    checks.leading_axis(f"the batch of part {name!r}", batch)
