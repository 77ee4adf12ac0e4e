"""The words that every signature uses."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

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


class Net(NamedTuple):
    """A network as two pure functions; it holds no parameters and no state.

    Attributes:
      init: `(key, x) -> params`, for an example input x [B, ...].
      apply: `(params, x) -> y`, with x [B, ...] and y [B, ...].
      standing: `(params, x [K, B, ...]) -> params` whose network no longer looks at its batch:
        where it normalised over the batch it uses the statistics of these K batches. None for a
        network that never looked.
    """

    init: Callable[[Key, Array], Params]
    apply: Callable[[Params, Array], Array]
    standing: Callable[[Params, Array], Params] | None = None
