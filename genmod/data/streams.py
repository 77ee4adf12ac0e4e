"""Batches of examples that do not fit onto the device: read on the host, some steps ahead."""

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
from genmod.data.order import indices_at
from genmod.data.protocols import Prepare, prepared
from genmod.data.stores import StreamedImages
from genmod.types import Array, Batch, Key, Keys

_PART_BYTES = 2**24
"""Half of what makes an allocator ask the system anew each time, whose pages cost more than what is
read into them."""
_MOST_STEPS = 256


class Batches:
    """Batch number i as a pure function of (key, i), of examples that the host reads.

    A `genmod.types.Stream`: the batches are those that the same examples give on the device, bit
    for bit.

    Attributes:
      examples: an array [N, ...], or a tree of them; images may be `StreamedImages`.
      batch_size: number of examples B in a batch.
      prepare: `(keys [B], raw examples) -> batch`.
    """

    def __init__(self, examples: Any, batch_size: int, prepare: Prepare):
        self.examples, self.batch_size, self.prepare = examples, batch_size, prepare
        self._leaves, self._tree = jax.tree.flatten(examples)
        self._num = checks.leading_axis("examples", examples)
        self._look_up = functools.partial(_look_up, prepare)
        at = functools.partial(indices_at, num=self._num, batch_size=batch_size)
        self._indices = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))
        key = rng.root(0)
        jax.eval_shape(self._indices, key[None], np.arange(1))
        jax.eval_shape(lambda part: part(key, 0), self.shapes(key[None]))

    @property
    def num_bytes(self) -> int:
        """Of all examples."""
        return sum(leaf.nbytes for leaf in self._leaves)

    def __call__(self, key: Key, step: int | Array) -> Batch:
        """The batch of a step, read now.

        Raises:
          ValueError: inside of a compiled program.
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
        """How many steps a part has."""
        rows = num_runs * self.batch_size * math.ceil(self.num_bytes / self._num)
        return max(1, min(_MOST_STEPS, _PART_BYTES // rows))

    def shapes(self, keys: Keys) -> jax.tree_util.Partial:
        """As in `genmod.types.Stream`."""
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
        """As in `genmod.types.Stream`."""
        lead = (len(keys), self.steps(len(keys)), self.batch_size)
        own = _own(lead, sharding)
        words = np.asarray(jax.random.key_data(keys))
        begins = range(first, first + num, lead[1])
        # On the CPU where there is one: a GPU would do it after the steps that are under way.
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
    prepare: Prepare, arrays: Batch, words: Array, first: Array, key: Key, step: int | Array
) -> Batch:
    """The batch of a step, out of those that were read for some runs."""
    run: int | Array = 0
    if len(words) > 1:
        run = jnp.argmax((words == jax.random.key_data(key)[None]).all(axis=-1))
    examples = jax.tree.map(lambda leaf: leaf[run, jnp.asarray(step) - first], arrays)
    return prepared(prepare, key, step, examples)


def _rows(leaf: Any, wanted: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Rows [..., *shape] at each of some arrays of places [...]."""
    if not isinstance(leaf, StreamedImages):
        yield from (np.asarray(leaf[places]) for places in wanted)
        return
    shapes: list[tuple[int, ...]] = []

    def flat() -> Iterator[np.ndarray]:
        for places in wanted:
            shapes.append(places.shape)
            yield places.ravel()

    for rows in leaf.read(flat()):
        yield rows.reshape(*shapes.pop(0), *rows.shape[1:])


def _own(lead: tuple[int, ...], sharding: NamedSharding | None) -> slice:
    """Which examples of a batch the devices of this process hold."""
    if sharding is None:
        return slice(None)
    shares = sharding.addressable_devices_indices_map(lead).values()
    ends = [share[2].indices(lead[2])[:2] for share in shares if share is not None]
    return slice(min(begin for begin, _ in ends), max(end for _, end in ends))


def _placed(rows: np.ndarray, lead: tuple[int, ...], sharding: NamedSharding | None) -> Array:
    """Rows on their devices; where they are of fewer steps than a part has, the rest is empty."""
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
    except RuntimeError:  # JAX was told to use other devices alone
        return jax.local_devices()[0]
