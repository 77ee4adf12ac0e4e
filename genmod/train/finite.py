"""Finding the step and the term in which a run became non-finite."""

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
    """A metric or the state became infinite or NaN, and training stopped there.

    Attributes:
      step: the step that went wrong, counted from 1.
      metrics: that step's metrics.
      carry: the run before that step, its state still finite.
      term: the first metric that is not finite; where all are, as where only a gradient is not, the
        first of the state's arrays that the update has ruined.
      runs: of many runs, which ones, from 0, as `select_run` counts them.
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
    """`length` steps, or NonFiniteError. The carry that comes in stays valid."""
    # The program updates a copy in place; the original is the way back to the last good state.
    # Steps are pure, so that state is found again by repeating the steps before the bad one: this
    # costs healthy steps nothing, where keeping the old state within each step costs 8 %.
    # A state may hold an infinity from the start, such as "the best loss so far": none is added.
    flaws = _num_non_finite(carry.state)

    def advance(steps: int) -> tuple[Carry, Metrics, bool]:
        after, metrics, finite = chunk.advance(learner, key, batch_at, chunk.copy(carry), steps)
        return after, metrics, bool(finite) and bool(_num_non_finite(after.state) <= flaws)

    after, _, finite = advance(length)
    if finite:
        return after
    # All is well after `good` steps and no more after `bad`: an update can ruin the state long
    # before a metric shows it.
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
    """What became non-finite first in a step, and in which of many runs."""
    bad = {name: ~np.isfinite(value) for name, value in metrics.items()}
    if not any(flags.any() for flags in bad.values()):  # an update ruined the state
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
    else:  # a term comes before what is made of it: the loss, the norm of a gradient
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
    """How many values of each array are not finite, or those of each of many runs."""

    def count(leaf: Array) -> Array:
        axes = tuple(range(int(many), leaf.ndim))
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.sum(~jnp.isfinite(leaf) if inexact else jnp.zeros(leaf.shape, bool), axes)

    counts = jax.tree.map(count, tree)
    # Every process is to see all of it.
    return (
        counts
        if mesh is None
        else jax.lax.with_sharding_constraint(counts, NamedSharding(mesh, PartitionSpec()))
    )


@jax.jit
def _num_non_finite(tree: Any) -> Array:
    # One long array, so one reduction to compile, not one for each of forty leaves.
    flags = [
        ~jnp.isfinite(x).ravel()
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return jnp.sum(jnp.concatenate([jnp.zeros(1, bool), *flags]))
