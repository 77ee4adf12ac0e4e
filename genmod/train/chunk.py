"""Compiled part of the loop: many steps as one program.

The number of steps is an argument of the program, so that a run ends in the same bits however it is
split into calls.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from genmod import rng
from genmod.train.learner import Learner
from genmod.types import Array, Batch, BatchAt, Key, Keys, Metrics


class Carry(NamedTuple):
    """Everything that the rest of a run depends on, except its key.

    To save a run is to save its carry.

    Attributes:
      step: int32 [], number of steps taken.
      state: the learner's state.
      totals: sum of each metric over the steps since the last log point, float32 or wider.
      count: int32 [], number of those steps.
      compensation: rounding error of each total, to be added to it at the end (compensated
        summation).
    """

    step: Array
    state: Any
    totals: Metrics
    count: Array
    compensation: Metrics


@functools.partial(jax.jit, static_argnums=0, donate_argnames="carry")
def advance(
    learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry, length: int | Array
) -> tuple[Carry, Metrics, Array]:
    """Takes `length` steps, fewer if the metrics of one are not finite.

    Returns the carry, the last step's metrics, and whether these are finite. Each of many runs may
    stop at a different step; the step and the count returned are the smallest among them.
    """
    # A single run needs no loop over runs; a grid is one run, whose step maps over its values.
    if learner.single is None:
        return _steps(learner, key, batch_at, carry, length)
    single, sequential = learner.single, runs_sequentially(learner)

    def runs(
        keys: Keys,
        states: Any,
        sums: tuple[Metrics, Metrics],
        batch_at: BatchAt,
        step: Array,
        count: Array,
    ) -> tuple[Carry, Metrics, Array]:
        def alone(run: tuple[Key, Any, tuple[Metrics, Metrics]]) -> tuple[Carry, Metrics, Array]:
            key, state, (totals, lost) = run
            return _steps(single, key, batch_at, Carry(step, state, totals, count, lost), length)

        # This loop over runs leaves the steps of a run as they are, so its bits stay the same.
        if sequential:
            return jax.lax.map(alone, (keys, states, sums))
        carry = Carry(step, states, sums[0], count, sums[1])
        carry, metrics, finite = _steps(learner, keys, batch_at, carry, length)
        # All these runs took the same steps; the results get the axis that `jax.lax.map` gives.
        each = [jnp.full(len(keys), value) for value in (carry.step, carry.count, finite)]
        return carry._replace(step=each[0], count=each[1]), metrics, each[2]

    # Each device takes its own runs through all of these steps, without waiting for the others.
    if learner.mesh is not None:
        parts, whole = PartitionSpec(*learner.mesh.axis_names), PartitionSpec()
        runs = jax.shard_map(
            runs,
            mesh=learner.mesh,
            in_specs=(parts, parts, parts, whole, whole, whole),
            out_specs=parts,
            check_vma=False,
        )
    sums = carry.totals, carry.compensation
    after, metrics, finite = runs(key, carry.state, sums, batch_at, carry.step, carry.count)
    # Runs may have stopped at different steps: the caller needs the first that went wrong.
    after = after._replace(step=after.step.min(), count=after.count.min())
    # The next call takes this carry, so it must be spread over the devices as the last one was.
    if learner.mesh is not None:
        where = shardings(learner)
        after = jax.lax.with_sharding_constraint(after, Carry(*cast(Any, where)))
        metrics = jax.lax.with_sharding_constraint(metrics, where[0])
    return after, metrics, finite.all()


def _steps(
    learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry, length: int | Array
) -> tuple[Carry, Metrics, Array]:
    """Takes the steps of one run, or of many in lockstep."""
    data_key, step_key = rng.stream(key, "data"), rng.stream(key, "step")
    end = carry.step + length

    # A step with metrics that are not finite ends the loop: further steps would be of no use.
    def go_on(loop: tuple[Carry, Metrics, Array]) -> Array:
        carry, _, finite = loop
        return (carry.step < end) & finite

    def one_step(loop: tuple[Carry, Metrics, Array]) -> tuple[Carry, Metrics, Array]:
        step, state, totals, count, lost = loop[0]
        key, batch = inputs(batch_at, data_key, step_key, step)
        state, metrics = learner.step(key, state, batch)
        # Metrics take the type of their totals, float32 or wider, before they are summed.
        metrics = {n: metrics[n].astype(total.dtype) for n, total in totals.items()}
        finite = jnp.array([jnp.isfinite(value).all() for value in metrics.values()]).all()
        # `_added` returns pairs of total and compensation, which the carry holds in two dicts.
        sums = {n: _added(total, lost[n], metrics[n]) for n, total in totals.items()}
        totals, lost = ({n: both[part] for n, both in sums.items()} for part in range(2))
        return Carry(step + 1, state, totals, count + 1, lost), metrics, finite

    # The loop must begin with metrics of the right shapes: the totals have them.
    return jax.lax.while_loop(go_on, one_step, (carry, carry.totals, jnp.array(True)))


def inputs(
    batch_at: BatchAt, data_key: Key | Keys, step_key: Key | Keys, step: Array
) -> tuple[Key | Keys, Batch]:
    """Returns the key and the batch of a step.

    Steps are counted from 0.
    """
    return rng.at_step(step_key, step), batch_of(batch_at, data_key, step)


def batch_of(batch_at: BatchAt, key: Key | Keys, step: Array) -> Batch:
    """Returns the batch of a step, or those of many runs."""
    return jax.vmap(batch_at, (0, None))(key, step) if key.ndim else batch_at(key, step)


def _added(total: Array, lost: Array, value: Array) -> tuple[Array, Array]:
    """Adds a value to a sum with compensation.

    Sum and compensation together have twice the digits. In float32 alone, the sum of a million
    steps would be off by a hundredth.
    """
    rough = total + value
    # The rounding error of a sum is exact if it starts from the larger number (Dekker 1971).
    larger = jnp.abs(total) >= jnp.abs(value)
    error = lost + jnp.where(larger, (total - rough) + value, (value - rough) + total)
    # The sum takes back any part of the compensation that is large enough. So the compensation,
    # which is rounded as well, stays small. A sum that overflows has no compensation.
    after = rough + error
    finite = jnp.isfinite(after)
    return jnp.where(finite, after, rough), jnp.where(finite, error - (after - rough), 0)


def runs_sequentially(learner: Learner) -> bool:
    """Returns whether each device takes its runs one after the other.

    This is the default on a CPU. A vectorised step of many runs takes as long there as their steps
    in turn, and a run in turn is bit-identical to the same run alone.
    """
    if learner.sequential is not None:
        return learner.sequential
    mesh = learner.mesh
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return platform == "cpu"


def keys_of(learner: Learner, key: Key | Keys) -> Key | Keys:
    """Returns the key of one run, or the keys [seeds] of many."""
    if learner.seeds is not None and key.ndim == 0:
        return rng.of_seeds(key, learner.seeds)
    expected = () if learner.seeds is None else (learner.seeds,)
    if key.shape != expected:
        raise ValueError(
            f"key must have the shape {list(expected)} for a learner "
            f"{'of one run' if not expected else f'over {learner.seeds} seeds'}, "
            f"got {list(key.shape)}"
        )
    return key


def shardings(learner: Learner) -> tuple[NamedSharding, ...]:
    """Returns the sharding of each field of a carry.

    The state of many runs is split over the devices; everything else is replicated.
    """
    assert learner.mesh is not None
    whole = NamedSharding(learner.mesh, PartitionSpec())
    parts = NamedSharding(learner.mesh, PartitionSpec(*learner.mesh.axis_names))
    return whole, whole if learner.seeds is None else parts, whole, whole, whole


@jax.jit
def copy(carry: Carry) -> Carry:
    """Copies a carry, for the program to overwrite."""
    return jax.tree.map(jnp.copy, carry)


@jax.jit
def emptied(carry: Carry) -> Carry:
    """Returns a carry with its sums reset to 0."""
    sums = carry.totals, carry.count, carry.compensation
    totals, count, lost = jax.tree.map(jnp.zeros_like, sums)
    return carry._replace(totals=totals, count=count, compensation=lost)


def readable(metrics: Metrics) -> dict[str, Any]:
    """Returns metrics as Python floats, or as NumPy arrays."""
    values = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
    return {name: float(v) if v.ndim == 0 else v for name, v in values.items()}
