"""One run on many devices, each with its share of every batch."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genmod import checks, rng
from genmod.devices import AXIS, partitioned
from genmod.train.learner import Learner
from genmod.types import Batch, Key, Metrics, Parts


def over_devices(
    learner: Learner,
    how: Literal["pmap", "sharded"] = "sharded",
    devices: Sequence[jax.Device] | None = None,
) -> Learner:
    """Returns the learner of the same run on many devices.

    A batch is cut into equal shares of consecutive examples, one for each device. There is one
    state, of which every device holds a copy. The run is the same up to rounding, because noise
    belongs to the example. A learner over seeds is spread by runs instead, whatever `how` is: each
    device takes its share of the runs through their steps, independently of the others.

    `pmap` maps the step explicitly: each device computes gradients of its share, and the step takes
    their mean (`genmod.devices`). `sharded` leaves the code as it is for the whole batch, and the
    compiler partitions it; only this one works on several machines. Your own functions need no
    change for `sharded`. Under `pmap`, your own step must take means over devices itself, as
    `genmod.devices.mean` does.

    Args:
      learner: the learner on one device.
      how: `"pmap"` or `"sharded"`.
      devices: devices to use; all devices if None.

    Raises:
      ValueError: if how is unknown, there are no devices, or the number of seeds cannot be cut into
        equal shares; when traced, if a batch cannot be cut so; at the start of a run, if a step
        under `pmap` leaves devices with different states.
    """
    checks.known("how", how, ("pmap", "sharded"))
    chosen = jax.devices() if devices is None else list(devices)
    if not chosen:
        raise ValueError("devices must hold at least one device, got none")
    runs = learner.seeds
    if runs is not None:
        if runs % len(chosen):
            _refuse_shares(f"{runs} seeds", len(chosen))
        # The axis must not be called AXIS: a step would take it for that of its batch.
        return learner._replace(mesh=_mesh(chosen, "runs"))
    make = {"pmap": _mapped, "sharded": _partitioned}[how]
    return make(learner, _mesh(chosen, AXIS))


def _mesh(chosen: Sequence[jax.Device], axis: str) -> Mesh:
    return Mesh(np.array(chosen), (axis,), axis_types=(AxisType.Auto,))


def _partitioned(learner: Learner, mesh: Mesh) -> Learner:
    whole, parts = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))
    constrain = jax.lax.with_sharding_constraint

    def step(key: Key, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        _check_batch(batch, mesh.size)
        state, batch = constrain(state, whole), constrain(batch, parts)
        with partitioned(parts):
            return constrain(learner.step(key, state, batch), whole)

    return learner._replace(step=step, mesh=mesh)


def _mapped(learner: Learner, mesh: Mesh) -> Learner:
    if mesh.is_multi_process:
        raise ValueError("how='pmap' must be on the devices of one process, got those of several")
    pmap = functools.partial(
        jax.pmap, axis_name=AXIS, in_axes=(None, None, 0), devices=list(mesh.devices)
    )

    mapped = pmap(learner.step, out_axes=None)

    def shares(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)

    def step(key: Key, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        _check_batch(batch, mesh.size)
        return mapped(key, state, shares(batch))

    def check(batch: Batch) -> None:
        if learner.check is not None:
            learner.check(batch)
        # With out_axes=None, `jax.pmap` returns the state of the first device. A step that forgets
        # a mean would go unnoticed, so the states of all devices are compared here.
        key = rng.root(0)
        state = jax.jit(learner.init)(key, batch)
        _check_same(pmap(learner.step, out_axes=0)(key, state, shares(batch))[0])

    return learner._replace(step=step, check=check, mesh=mesh)


def _check_same(states: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        values = np.asarray(leaf)
        if not all(np.array_equal(values[0], value, equal_nan=True) for value in values[1:]):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"after a step the devices must hold the same state, but {name} differs: the step "
                "must take the mean of its gradients over them, as genmod.devices.mean does"
            )


def _check_batch(batch: Batch, num: int) -> None:
    for name, part in batch.items() if isinstance(batch, Parts) else [("batch", batch)]:
        size = checks.leading_axis(name, part)
        if size % num:
            what = "a batch" if part is batch else f"the part {name!r}"
            _refuse_shares(f"{what} of {size} examples", num)


def _refuse_shares(what: str, num: int) -> NoReturn:
    raise ValueError(f"{what} cannot be cut into equal shares for {num} devices")
