"""Batches of a data set with random access.

Batch number i is a pure function of (key, i), so there is no iterator whose state would have to be
saved.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod._host.decoding import processes
from genmod.data.compiled import Compiled
from genmod.data.order import indices_at
from genmod.data.protocols import (
    Prepare,
    Preprocessing,
    as_function,
    name_of,
    prepared,
    unit_interval,
)
from genmod.data.stores import DecodedStore, StreamedImages, device_budget
from genmod.data.streams import Batches
from genmod.data.together import parts_of
from genmod.types import Array, Batch, BatchAt, Key, Stream


def batch_at(
    key: Key,
    step: int | Array,
    examples: Batch,
    *,
    batch_size: int,
    prepare: Prepare = unit_interval,
) -> Batch:
    """Returns batch number `step`.

    The batches run through an endless sequence of shuffled epochs, in the order of `indices_at`.

    Args:
      key: key of the data's order and of the random numbers that `prepare` draws.
      step: number of the batch, from 0.
      examples: an array [N, ...], or a tree of them.
      batch_size: number of examples B in the batch, at most N.
      prepare: `(keys [B], raw examples) -> batch`, with fresh keys at every step; for instance
        `data.unit_interval` or `data.binarized`. For a dict of examples, also a dict of such
        functions by field: {"image": data.binarized}; fields without one stay unchanged.

    Returns:
      The batch, [B, ...].

    Raises:
      ValueError: if batch_size is not positive or larger than the data, or prepare refuses the
        examples.
    """
    num = checks.leading_axis("examples", examples)
    index = indices_at(key, step, num, batch_size=batch_size)

    def take(leaf: Array) -> Array:
        # XLA's CPU backend copies a row in one piece, but an image of one channel pixel by pixel.
        return leaf.reshape(num, -1)[index].reshape(batch_size, *leaf.shape[1:])

    return prepared(prepare, key, step, jax.tree.map(take, examples))


def batches(
    examples: Batch,
    *,
    batch_size: int,
    prepare: Prepare = unit_interval,
    stream: bool | None = None,
) -> BatchAt:
    """Makes the function that returns batches.

        (key, step) -> batch

    The examples are put on the device. The function carries them as leaves of a tree
    (`jax.tree_util.Partial`), so that a compiled program takes the data as an argument instead of
    holding a copy as a constant. Outside of such a program it compiles itself. If the examples do
    not fit onto the device, they stay on the host or on disk and are read some steps ahead of the
    training (`genmod.types.Stream`). These batches are bit-identical to those from the device.

    Args:
      examples: an array [N, ...], or a tree of them; images may be `StreamedImages`.
      batch_size: number of examples B in the batch, at most N.
      prepare: `(keys [B], raw examples) -> batch`, as in `batch_at`.
      stream: whether to read the examples from the host. If None, they are streamed if they take
        more than $GENMOD_DATA_GB or, if that is not set, more than half of the device's memory.

    Raises:
      ValueError: if batch_size is not positive or larger than the data, or prepare refuses the
        examples.

    Example:
      >>> import numpy as np
      >>> from genmod import data, rng
      >>> pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
      >>> batch_at = data.batches(pixels, batch_size=2, prepare=data.unchanged)
      >>> epoch = [batch_at(rng.root(0), step).ravel().tolist() for step in range(3)]
      >>> sorted(sum(epoch, []))  # every example once, in an order of its own for each epoch
      [0, 1, 2, 3, 4, 5]
    """
    prepare = as_function(prepare)
    if stream is None:
        stream = sum(leaf.nbytes for leaf in jax.tree.leaves(examples)) > device_budget()
    if stream:
        return Batches(examples, batch_size, prepare)
    examples = jax.tree.map(_on_device, examples)
    at = Compiled(functools.partial(_batch_at, batch_size, prepare))
    take = jax.tree_util.Partial(at, examples)
    jax.eval_shape(take, rng.root(0), 0)
    return take


def _on_device(leaf: Any) -> Array:
    return jnp.asarray(leaf[:] if isinstance(leaf, StreamedImages) else leaf)


def indices_of(batch_at: BatchAt, key: Key, step: int | Array) -> Array | dict[str, Any] | None:
    """Returns the indices of a batch's examples, as `indices_at` does.

    For batches of `together`, these are the indices of each part by name. The result is None unless
    `batch_at` was made by `batches` or `together`, and None for such a part.
    """
    parts = parts_of(batch_at)
    if parts is not None:
        return {name: indices_of(at, rng.stream(key, name), step) for name, at in parts.items()}
    found = _of(batch_at)
    if found is None:
        return None
    num = checks.leading_axis("examples", found[0])
    return indices_at(key, step, num, batch_size=found[1])


def describe(batch_at: BatchAt) -> dict[str, Any]:
    """Describes batches: number of examples, batch size, order, preprocessing.

    For batches of `together`, {"parts": descriptions by name}. The result is empty unless
    `batch_at` was made by `batches` or `together`.
    """
    parts = parts_of(batch_at)
    if parts is not None:
        return {"parts": {name: describe(at) for name, at in parts.items()}}
    found = _of(batch_at)
    if found is None:
        return {}
    examples, batch_size, prepare = found
    return {
        "examples": checks.leading_axis("examples", examples),
        "batch_size": batch_size,
        "order": "shuffled epochs",
        "prepare": name_of(prepare),
    }


def batch_size_of(batch_at: BatchAt, num: int, given: int = 0) -> int | None:
    """Returns the number of examples in a batch; None if it is unknown.

    For parts side by side it is that of the part with `num` examples.

    Args:
      batch_at: the function that returns batches.
      num: number of examples of the data set.
      given: batch size that an experiment gives; 0 for none. If several parts have `num` examples,
        or none has, there must be one.

    Raises:
      ValueError: if parts side by side do not say it and none is given.
    """
    described = describe(batch_at)
    if "parts" in described:
        parts = described["parts"]
        sizes = {part["batch_size"] for part in parts.values() if part.get("examples") == num}
        if len(sizes) != 1 and not given:
            found = ", ".join(
                f"{name} has {part['examples']:,} in batches of {part['batch_size']}"
                if part
                else f"{name} does not say"
                for name, part in parts.items()
            )
            raise ValueError(
                "Experiment.batch_size must be given: epochs are counted by the one part of "
                f"batch_at that has the {num:,} examples of dataset, got {found}"
            )
        return sizes.pop() if len(sizes) == 1 else None
    known = described.get("batch_size")
    if known is None and not isinstance(batch_at, Stream):
        batch = jax.eval_shape(batch_at, rng.root(0), np.int32(0))
        shapes = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
        if len(shapes) == 1 and () not in shapes:
            ((known,),) = shapes
    return known


def placement(batch_at: BatchAt) -> str:
    """Says where the examples of batches are stored.

    For batches of `together`, each part has a line. The result is empty unless `batch_at` was made
    by `batches` or `together`.
    """
    parts = parts_of(batch_at)
    if parts is not None:
        places = {name: placement(at) for name, at in parts.items()}
        return "\n".join(f"{name}: {place}" for name, place in places.items() if place)
    found = _of(batch_at)
    if found is None:
        return ""
    leaves = jax.tree.leaves(found[0])
    size = sum(leaf.nbytes for leaf in leaves)
    what = f"{len(leaves[0]):,} examples, {size / 1e6:,.1f} MB, "
    if not isinstance(batch_at, Batches):
        return what + "on the device"
    decoded = any(
        isinstance(x, StreamedImages) and isinstance(x.store, DecodedStore) for x in leaves
    )
    by = f" by {max(1, processes())} process{'es' * (processes() > 1)}" if decoded else ""
    most = device_budget() / 1e6
    return f"{what}streamed{by} (on the device at most {most:,.1f} MB: GENMOD_DATA_GB)"


def _of(batch_at: BatchAt) -> tuple[Any, int, Preprocessing] | None:
    """Returns examples, batch size and `prepare`.

    The result is None unless `batch_at` was made by `batches`.
    """
    if isinstance(batch_at, Batches):
        return batch_at.examples, batch_at.batch_size, batch_at.prepare
    if not isinstance(batch_at, jax.tree_util.Partial):
        return None
    at: Any = getattr(batch_at.func, "function", None)
    if getattr(at, "func", None) is not _batch_at:
        return None
    return batch_at.args[0], *at.args


def _batch_at(
    batch_size: int, prepare: Preprocessing, examples: Batch, key: Key, step: int | Array
) -> Batch:
    return batch_at(key, step, examples, batch_size=batch_size, prepare=prepare)
