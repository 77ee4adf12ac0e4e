"""Search for the step and the term that became non-finite.

The compiled program in `chunk.py` stops at such a step.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from genmod.train import chunk
from genmod.train.chunk import Carry
from genmod.train.learner import Learner
from genmod.types import Array, BatchAt, Key, Keys, Metrics


class NonFiniteError(ArithmeticError):
    """A metric or the state became infinite or NaN.

    Training stops at that step.

    Attributes:
      step: the step that went wrong, counted from 1.
      metrics: metrics of that step.
      carry: the run's carry before that step; its state is still finite.
      term: name of the first metric that is not finite. If all metrics are finite, because only a
        gradient is not, for instance: name of the first array of the state that the update ruined.
      runs: indices of the runs that went wrong, from 0, as `select_run` counts them; empty for a
        single run.
    """

    def __init__(
        self,
        step: int,
        metrics: dict[str, Any],
        carry: Carry,
        term: str = "",
        runs: Sequence[int] = (),
    ):
        self.step, self.metrics, self.carry = step, metrics, carry
        self.term, self.runs = term, tuple(runs)
        values = ", ".join(f"{name} {value}" for name, value in metrics.items())
        first = f"first {term}" if term in metrics else f"all finite, but its update ruined {term}"
        where = f" in run {', '.join(map(str, runs))}" if runs else ""
        super().__init__(
            f"training became non-finite in step {step}: {values}"
            f"{f'; {first}{where}' if term else ''}; "
            f"the state after step {step - 1} is kept"
        )


def advance_finite(
    learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry, length: int
) -> Carry:
    """Takes `length` steps, or raises NonFiniteError.

    The given carry stays valid.
    """
    # The program updates a copy in place; the original carry is the way back to the last good
    # state. Steps are pure, so repeating the steps before the bad one restores that state. This
    # costs healthy steps nothing; keeping the old state within each step would cost 8 %.
    # A state may hold an infinity from the start, such as "the best loss so far", so a step is bad
    # only if it adds one.
    flaws = _num_non_finite(carry.state)

    def advance(steps: int) -> tuple[Carry, Metrics, bool]:
        after, metrics, finite = chunk.advance(learner, key, batch_at, chunk.copy(carry), steps)
        return after, metrics, bool(finite) and bool(_num_non_finite(after.state) <= flaws)

    after, _, finite = advance(length)
    if finite:
        return after
    # A bisection finds the bad step: everything is finite after `good` steps, but not after `bad`.
    # The metrics alone do not tell, as an update can ruin the state long before a metric shows it.
    good, bad = 0, int(after.step - carry.step)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if advance(middle)[2] else (good, middle)
    before, (after, seen, _) = advance(good)[0], advance(bad)
    metrics = chunk.readable(seen)
    blamed = _blame(learner, metrics, before.state, after.state)
    raise NonFiniteError(int(carry.step) + bad, metrics, before, *blamed)


def _blame(
    learner: Learner, metrics: dict[str, Any], before: Any, after: Any
) -> tuple[str, tuple[int, ...]]:
    """Returns the first non-finite term of a step, and its runs."""
    bad = {name: ~np.isfinite(value) for name, value in metrics.items()}
    if not any(flags.any() for flags in bad.values()):  # the update ruined the state
        many = any(flags.ndim for flags in bad.values())
        counts = [_flaws(state, many, learner.mesh) for state in (before, after)]
        bad = {
            jax.tree_util.keystr(path, simple=True, separator=".") or "the state": now > then
            for (path, now), then in zip(
                jax.tree_util.tree_leaves_with_path(counts[1]),
                jax.tree.leaves(counts[0]),
                strict=True,
            )
        }
    else:  # a term comes before the loss, and the loss before the norm of its gradient
        ends = ("gradient", "loss")
        bad = {
            n: bad[n]
            for n in sorted(bad, key=lambda n: (n.endswith(ends), n.endswith("gradient"), n))
        }
    first = next((name for name, flags in bad.items() if np.any(flags)), "")
    each = [flags.reshape(len(flags), -1).any(1) for flags in bad.values() if np.ndim(flags)]
    return first, tuple(np.flatnonzero(np.any(each, axis=0)).tolist()) if each else ()


@functools.partial(jax.jit, static_argnums=(1, 2))
def _flaws(tree: Any, many: bool, mesh: jax.sharding.Mesh | None) -> Any:
    """Counts the non-finite values of each array.

    For many runs, each run has its own count.
    """

    def count(leaf: Array) -> Array:
        axes = tuple(range(int(many), leaf.ndim))
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.sum(~jnp.isfinite(leaf) if inexact else jnp.zeros(leaf.shape, bool), axes)

    counts = jax.tree.map(count, tree)
    # Every process reads all counts, so each device gets all of them.
    return (
        counts
        if mesh is None
        else jax.lax.with_sharding_constraint(counts, NamedSharding(mesh, PartitionSpec()))
    )


@jax.jit
def _num_non_finite(tree: Any) -> Array:
    # XLA compiles one reduction of one long array, not one for each of some forty leaves.
    flags = [
        ~jnp.isfinite(x).ravel()
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return jnp.sum(jnp.concatenate([jnp.zeros(1, bool), *flags]))
