"""Batches for the compiled program, read ahead from a stream."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import jax
from jax.sharding import NamedSharding, PartitionSpec

from genmod import devices, rng
from genmod.train.learner import Learner
from genmod.types import BatchAt, Key, Keys, Stream


class Batches:
    """Source of the batches of the compiled program.

    An ordinary `batch_at` serves all steps. A stream is read in parts: while the program uses one,
    a thread reads the next.
    """

    def __init__(self, learner: Learner, key: Key | Keys, batch_at: BatchAt, first: int, end: int):
        self._thread: ThreadPoolExecutor | None = None
        mesh = learner.mesh
        if not isinstance(batch_at, Stream):
            self._at, self._end = as_argument(batch_at), end
            if mesh is not None:
                self._at = devices.place(self._at, NamedSharding(mesh, PartitionSpec()))
            return
        # Arrays are [runs, steps, B, ...]; each device holds the examples that it computes with.
        axes = (None, None, *mesh.axis_names) if mesh and learner.seeds is None else ()
        sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
        keys = many(rng.stream(key, "data"))
        self._end = first
        self._parts = batch_at.parts(keys, first, end - first, sharding)
        if first < end:
            self._thread = ThreadPoolExecutor(1, "batches")
            self._next = self._thread.submit(next, self._parts, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._parts.close()

    def at(self, step: int) -> tuple[jax.tree_util.Partial, int]:
        """Returns a `BatchAt` for a step, and its end.

        The `BatchAt` serves the steps before its end. Steps must be requested in ascending order.
        """
        while self._thread is not None and step >= self._end:
            part = self._next.result()
            assert part is not None
            self._at, steps = part
            self._end += steps
            self._next = self._thread.submit(next, self._parts, None)
        return self._at, self._end


def many(key: Key | Keys) -> Keys:
    """Returns the keys of the runs, [R].

    The key of a single run, which has no axis, gets one of length 1.
    """
    return key if key.ndim else key[None]


def as_argument(batch_at: BatchAt) -> jax.tree_util.Partial:
    """Returns `batch_at` as an argument of a compiled program."""
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    return batch_at if is_tree else jax.tree_util.Partial(batch_at)
