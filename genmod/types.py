"""Types that the signatures share."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jax.sharding import NamedSharding

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""One typed key (`jax.random.key`), shape []."""
Keys: TypeAlias = jax.Array
"""One typed key per example, shape [B]."""
Params: TypeAlias = Any
"""Tree of trainable arrays."""
Batch: TypeAlias = Any
"""Array or tree of arrays [B, ...], one entry per example."""
Metrics: TypeAlias = dict[str, Array]
"""Numbers to report, by name.

A step returns means over the batch; an objective returns one value per example.
"""
Objective: TypeAlias = Callable[[Keys, Params, Batch], tuple[Array, Metrics]]
"""Function `(keys, params, batch) -> (loss [B], aux)`.

It returns one loss per example, and a dict of further values, [B] each.
"""
BatchAt: TypeAlias = Callable[[Key, Array], Batch]
"""Pure function `(key, step) -> batch`.

It returns batch number `step`.
"""


@runtime_checkable
class Stream(Protocol):
    """A `BatchAt` that the host reads, some steps ahead.

    It serves examples that do not fit onto the device. A compiled program cannot call a stream
    itself; it calls the `BatchAt` of some steps that `parts` yields.
    """

    def __call__(self, key: Key, step: int | Array) -> Batch:
        """Reads the batch of a step and returns it."""
        ...

    def shapes(self, keys: Keys) -> jax.tree_util.Partial:
        """Returns the shapes and types of one part.

        The result is like a `BatchAt` that `parts` yields for these keys, with shapes and types in
        place of its arrays.
        """
        ...

    def parts(
        self, keys: Keys, first: int, num: int, sharding: NamedSharding | None = None
    ) -> Generator[tuple[jax.tree_util.Partial, int]]:
        """Yields the batches of `num` steps, part by part.

        Each part is read when it is requested.

        Args:
          keys: keys of the runs whose batches are read, [R].
          first: the first step.
          num: total number of steps.
          sharding: placement of arrays [R, steps, B, ...]; None places them on the default device.
            If it spans processes, each process reads what its own devices hold.

        Yields:
          The `BatchAt` of the next steps, for these keys only, and the number of these steps.
        """
        ...


class Net(NamedTuple):
    """A network as two pure functions.

    It holds no parameters and no state.

    Attributes:
      init: `(key, x) -> params`, for an example input x [B, ...].
      apply: `(params, x) -> y`, with x [B, ...] and y [B, ...].
      standing: `(params, x [K, B, ...]) -> params`, with which the network no longer depends on
        batch statistics: batch normalisation then uses the statistics of these K batches. None for
        a network that never depends on batch statistics.
      standing_size: number of examples B in each batch for `standing`.
    """

    init: Callable[[Key, Array], Params]
    apply: Callable[[Params, Array], Array]
    standing: Callable[[Params, Array], Params] | None = None
    standing_size: int = 64
