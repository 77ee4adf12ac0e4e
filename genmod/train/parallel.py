"""A learner on many devices: the same run, each device taking its share of every batch."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genmod import checks, rng
from genmod.devices import AXIS, partitioned
from genmod.train.learner import Learner
from genmod.types import Batch, Key, Metrics


def over_devices(
    learner: Learner,
    how: Literal["pmap", "sharded"] = "sharded",
    devices: Sequence[jax.Device] | None = None,
) -> Learner:
    """The same run on many devices, up to rounding: the noise belongs to the example.

    A batch is cut into equal shares of consecutive examples, one for each device; the state is a
    single one, of which every device holds a copy. A learner over seeds is spread by runs instead,
    each device holding its share of them.

    `pmap` maps the step explicitly: each device computes gradients of its share, and the step takes
    their mean (`genmod.devices`). `sharded` leaves the code as it is for the whole batch and has
    the compiler partition it; this is the one for several machines. Functions of your own need
    nothing for `sharded`; under `pmap` a step of your own must take means over devices itself, as
    `genmod.devices.mean` does.

    Args:
      learner: the run on one device.
      how: `"pmap"` or `"sharded"`.
      devices: which ones; all of them if None.

    Raises:
      ValueError: if how is unknown or there are no devices; when traced, if a batch, or the number
        of seeds, cannot be cut into equal shares; at the start of a run, if a step under `pmap`
        leaves devices with different states.
    """
    checks.known("how", how, ("pmap", "sharded"))
    chosen = jax.devices() if devices is None else list(devices)
    if not chosen:
        raise ValueError("devices must hold at least one device, got none")
    mesh = Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))
    make = {"pmap": _mapped, "sharded": _partitioned}[how]
    return make(learner, mesh)._replace(mesh=mesh)


def _partitioned(learner: Learner, mesh: Mesh) -> Learner:
    whole, parts = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))
    constrain = jax.lax.with_sharding_constraint
    runs = learner.seeds is not None

    def step(key: Key, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        _check_shares(batch, mesh.size, runs)
        if runs:
            key, state, batch = constrain((key, state, batch), parts)
            state, metrics = learner.step(key, state, batch)
            return constrain(state, parts), constrain(metrics, whole)
        state, batch = constrain(state, whole), constrain(batch, parts)
        with partitioned(parts):
            return constrain(learner.step(key, state, batch), whole)

    return learner._replace(step=step)


def _mapped(learner: Learner, mesh: Mesh) -> Learner:
    if mesh.is_multi_process:
        raise ValueError("how='pmap' must be on the devices of one process, got those of several")
    runs = learner.seeds is not None
    pmap = functools.partial(jax.pmap, devices=list(mesh.devices))
    if runs:  # independent: no device needs to know of the others
        mapped = pmap(learner.step)
    else:
        pmap = functools.partial(pmap, axis_name=AXIS, in_axes=(None, None, 0))
        mapped = pmap(learner.step, out_axes=None)

    def shares(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), tree)

    def whole(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def step(key: Key, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        _check_shares(batch, mesh.size, runs)
        if runs:
            return whole(mapped(*map(shares, (key, state, batch))))
        return mapped(key, state, shares(batch))

    def check(batch: Batch) -> None:
        if learner.check is not None:
            learner.check(batch)
        if not runs:
            # With out_axes=None the first device's state counts, whatever the others have: a mean
            # that was forgotten would never be seen.
            key = rng.root(0)
            state = jax.jit(learner.init)(key, batch)
            _check_same(pmap(learner.step, out_axes=0)(key, state, shares(batch))[0])

    return learner._replace(step=step, check=check)


def _check_same(states: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        values = np.asarray(leaf)
        if not all(np.array_equal(values[0], value, equal_nan=True) for value in values[1:]):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"after a step the devices must hold the same state, but {name} differs: the step "
                "must take the mean of its gradients over them, as genmod.devices.mean does"
            )


def _check_shares(batch: Batch, num: int, runs: bool) -> None:
    size = checks.leading_axis("batch", batch)
    if size % num:
        what = f"{size} seeds" if runs else f"a batch of {size} examples"
        raise ValueError(f"{what} cannot be cut into equal shares for {num} devices")
