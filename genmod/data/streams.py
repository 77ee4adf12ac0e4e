"""Batches of examples that do not fit onto the device.

The host reads them some steps ahead.
"""

import functools
import itertools
import math
from collections.abc import Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from genmod import checks, rng
from genmod.data.compiled import Compiled
from genmod.data.order import indices_at
from genmod.data.protocols import Preprocessing, prepared
from genmod.data.stores import StreamedImages
from genmod.types import Array, Batch, Key, Keys

_PART_BYTES = 2**24
"""Size of a part of a stream, in bytes.

Allocations of twice this size make the allocator ask the system for new pages each time, which
costs more than reading the data into them.
"""
_MOST_STEPS = 256


class Batches:
    """Batches of examples that the host reads.

    Batch number i is a pure function of (key, i). This is a `genmod.types.Stream`; its batches are
    bit-identical to those of the same examples on the device.

    Attributes:
      examples: an array [N, ...], or a tree of them; images may be `StreamedImages`.
      batch_size: number of examples B in a batch.
      prepare: `(keys [B], raw examples) -> batch`.
    """

    def __init__(self, examples: Any, batch_size: int, prepare: Preprocessing):
        self.examples, self.batch_size, self.prepare = examples, batch_size, prepare
        self._leaves, self._tree = jax.tree.flatten(examples)
        self._num = checks.leading_axis("examples", examples)
        self._look_up = Compiled(functools.partial(_look_up, prepare))
        at = functools.partial(indices_at, num=self._num, batch_size=batch_size)
        self._indices = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))
        key = rng.root(0)
        jax.eval_shape(self._indices, key[None], np.arange(1))
        jax.eval_shape(lambda part: part(key, 0), self.shapes(key[None]))

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all examples."""
        return sum(leaf.nbytes for leaf in self._leaves)

    def __call__(self, key: Key, step: int | Array) -> Batch:
        """Reads and returns the batch of a step.

        Raises:
          ValueError: if it is called inside of a compiled program.
        """
        if isinstance(step, jax.core.Tracer) or isinstance(key, jax.core.Tracer):
            raise ValueError(
                "batches that are streamed cannot be made inside of a compiled program, got a "
                "traced key or step; give them to train.run, or take the batches of their `parts`"
            )
        step = int(step)
        ((part, _),) = self.parts(key[None], step, 1)
        return part(key, step)

    def steps(self, num_runs: int) -> int:
        """Returns the number of steps in a part."""
        rows = num_runs * self.batch_size * math.ceil(self.num_bytes / self._num)
        return max(1, min(_MOST_STEPS, _PART_BYTES // rows))

    def shapes(self, keys: Keys) -> jax.tree_util.Partial:
        """Returns the shapes of a part, as `genmod.types.Stream` defines."""
        lead = (len(keys), self.steps(len(keys)), self.batch_size)
        arrays = [
            jax.ShapeDtypeStruct(
                (*lead, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype)
            )
            for leaf in self._leaves
        ]
        words = jax.eval_shape(jax.random.key_data, keys)
        first = jax.ShapeDtypeStruct((), jnp.int32)
        return jax.tree_util.Partial(self._look_up, self._tree.unflatten(arrays), words, first)

    def parts(
        self, keys: Keys, first: int, num: int, sharding: NamedSharding | None = None
    ) -> Generator[tuple[jax.tree_util.Partial, int]]:
        """Yields the parts, as `genmod.types.Stream` defines."""
        lead = (len(keys), self.steps(len(keys)), self.batch_size)
        own = _own(lead, sharding)
        words = np.asarray(jax.random.key_data(keys))
        begins = range(first, first + num, lead[1])
        # The indices are computed on the CPU if JAX has one: a GPU would first finish the steps
        # that are already queued.
        with jax.default_device(_host()):
            keys = jax.random.wrap_key_data(jnp.asarray(words), impl=jax.random.key_impl(keys))

        def indices() -> Iterator[np.ndarray]:
            for begin in begins:
                with jax.default_device(_host()):
                    found = self._indices(keys, begin + np.arange(lead[1]))
                yield np.asarray(found)[:, : first + num - begin, own]

        each = itertools.tee(indices(), len(self._leaves))
        read = [_rows(leaf, wanted) for leaf, wanted in zip(self._leaves, each, strict=True)]
        for begin, *found in zip(begins, *read, strict=True):
            placed = [_placed(rows, lead, sharding) for rows in found]
            arrays = self._tree.unflatten(placed)
            at = jax.tree_util.Partial(self._look_up, arrays, words, np.int32(begin))
            yield at, min(lead[1], first + num - begin)


def _look_up(
    prepare: Preprocessing, arrays: Batch, words: Array, first: Array, key: Key, step: int | Array
) -> Batch:
    """Looks up a step's batch in a part of the stream."""
    run: int | Array = 0
    if len(words) > 1:
        run = jnp.argmax((words == jax.random.key_data(key)[None]).all(axis=-1))
    examples = jax.tree.map(lambda leaf: leaf[run, jnp.asarray(step) - first], arrays)
    return prepared(prepare, key, step, examples)


def _rows(leaf: Any, wanted: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields rows [..., *shape] for each array of indices [...]."""
    if not isinstance(leaf, StreamedImages):
        yield from (np.asarray(leaf[indices]) for indices in wanted)
        return
    shapes: list[tuple[int, ...]] = []

    def flat() -> Iterator[np.ndarray]:
        for indices in wanted:
            shapes.append(indices.shape)
            yield indices.ravel()

    for rows in leaf.read(flat()):
        yield rows.reshape(*shapes.pop(0), *rows.shape[1:])


def _own(lead: tuple[int, ...], sharding: NamedSharding | None) -> slice:
    """Returns the slice of a batch for this process."""
    if sharding is None:
        return slice(None)
    shares = sharding.addressable_devices_indices_map(lead).values()
    ends = [share[2].indices(lead[2])[:2] for share in shares if share is not None]
    return slice(min(begin for begin, _ in ends), max(end for _, end in ends))


def _placed(rows: np.ndarray, lead: tuple[int, ...], sharding: NamedSharding | None) -> Array:
    """Puts rows on their devices.

    If the rows cover fewer steps than a part has, the rest is padded with zeros.
    """
    missing = lead[1] - rows.shape[1]
    if missing:
        rows = np.pad(rows, [(0, 0), (0, missing), *[(0, 0)] * (rows.ndim - 2)])
    if sharding is None:
        return jnp.asarray(rows)
    shape = (*lead, *rows.shape[3:])
    return jax.make_array_from_process_local_data(sharding, rows, shape)


def _host() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to use only other devices
        return jax.local_devices()[0]
