"""The words that every signature uses."""

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
"""A tree of arrays, found by training."""
Batch: TypeAlias = Any
"""An array, or a tree of arrays, whose leading axis counts the examples: [B, ...]."""
Metrics: TypeAlias = dict[str, Array]
"""Named numbers to report. A step returns means over the batch, an objective one per example."""
Objective: TypeAlias = Callable[[Keys, Params, Batch], tuple[Array, Metrics]]
"""`(keys, params, batch) -> (loss [B], aux)`: one number per example, aux values [B] each."""
BatchAt: TypeAlias = Callable[[Key, Array], Batch]
"""`(key, step) -> batch`: batch number `step` as a pure function of the key."""


@runtime_checkable
class Stream(Protocol):
    """A `BatchAt` whose examples do not fit onto the device: the host reads some steps ahead.

    A compiled program cannot call it, but the `BatchAt` of some steps that `parts` gives.
    """

    def __call__(self, key: Key, step: int | Array) -> Batch:
        """The batch of a step, read now."""
        ...

    def shapes(self, keys: Keys) -> jax.tree_util.Partial:
        """One of the `parts` for these keys, with shapes and types in place of its arrays."""
        ...

    def parts(
        self, keys: Keys, first: int, num: int, sharding: NamedSharding | None = None
    ) -> Generator[tuple[jax.tree_util.Partial, int]]:
        """The batches of some steps after the others, each part read when it is asked for.

        Args:
          keys: of the runs whose batches are wanted, [R].
          first: the first step.
          num: number of steps in all.
          sharding: how to place arrays [R, steps, B, ...]; on the default device if None. Where it
            spans processes, each of them reads what its own devices hold.

        Yields:
          The `BatchAt` of the next steps, for these keys alone, and how many steps these are.
        """
        ...


class Net(NamedTuple):
    """A network as two pure functions; it holds no parameters and no state.

    Attributes:
      init: `(key, x) -> params`, for an example input x [B, ...].
      apply: `(params, x) -> y`, with x [B, ...] and y [B, ...].
      standing: `(params, x [K, B, ...]) -> params` whose network no longer looks at its batch:
        where it normalised over the batch it uses the statistics of these K batches. None for a
        network that never looked.
      standing_size: number of examples B in each batch for `standing`.
    """

    init: Callable[[Key, Array], Params]
    apply: Callable[[Params, Array], Array]
    standing: Callable[[Params, Array], Params] | None = None
    standing_size: int = 64
