"""Initial weights of a network, all of them from one draw.

Compiling a draw of random numbers takes longer than compiling a layer. So an `Initializer` that is
called while a network is initialised leaves zeros and a note of what belongs there; afterwards
`drawn` makes all that the notes ask for at once, and cuts it up. What a weight begins as depends on
the key, the weight's name and its place alone: one more layer shifts no other weight.
"""

import contextlib
import contextvars
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array, Key, Params

_CHUNK = 1024
"""Numbers drawn from one key; a weight takes as many chunks as it needs, and begins a new one."""

_notes: contextvars.ContextVar["list[tuple[Array, Initializer]] | None"] = contextvars.ContextVar(
    "notes", default=None
)


class Initializer(NamedTuple):
    """Independent weights of one scale: `(key, shape, dtype) -> weights`, as flax calls it.

    Attributes:
      distribution: "normal", or "uniform" around 0.
      deviation: standard deviation of the weights, as a function of their shape [..., in, out].
    """

    distribution: Literal["normal", "uniform"]
    deviation: Callable[[Sequence[int]], float]

    def __call__(self, key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        """Returns the weights, or zeros in the place of those that are drawn with all others."""
        notes = _notes.get()
        if notes is None:
            values = _draw(key, self.distribution, {"": math.prod(shape)})[""]
            return self.scaled(values, shape, dtype)
        placeholder = jnp.zeros(shape, dtype)
        notes.append((placeholder, self))
        return placeholder

    def scaled(self, values: Array, shape: Sequence[int], dtype: Any) -> Array:
        """Returns weights of a shape, from so many numbers of variance 1."""
        return (self.deviation(shape) * values).reshape(shape).astype(dtype)

    def in_parts(self, parts: int) -> "Initializer":
        """Returns one for equal parts of the columns, each scaled by its own fan-out."""
        return self._replace(
            deviation=lambda shape: self.deviation((*shape[:-1], shape[-1] // parts))
        )


def normal(deviation: float) -> Initializer:
    """N(0, deviation^2).

    Raises:
      ValueError: if deviation is not positive.
    """
    checks.positive("deviation", deviation)
    return Initializer("normal", lambda shape: deviation)


def _he(shape: Sequence[int]) -> float:
    return math.sqrt(2 / math.prod(shape[:-1]))


def _glorot(shape: Sequence[int]) -> float:
    window = math.prod(shape[:-2])
    return math.sqrt(2 / (window * (shape[-2] + shape[-1])))


he_normal = Initializer("normal", _he)
"""N(0, 2 / fan-in), for rectifiers (He et al. 2015, arXiv:1502.01852, equation 10)."""

glorot_uniform = Initializer("uniform", _glorot)
"""Uniform, of variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010, equation 16)."""


@contextlib.contextmanager
def noted() -> Iterator[list[tuple[Array, Initializer]]]:
    """Within it initializers leave zeros; yields the list of these with who left them."""
    notes: list[tuple[Array, Initializer]] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def drawn(key: Key, params: Params, notes: Sequence[tuple[Array, Initializer]]) -> Params | None:
    """Parameters with their weights in the place of the zeros that initializers have left.

    Args:
      key: of the network.
      params: as the network was initialised within `noted`.
      notes: what that has yielded.

    Returns:
      The parameters; None where not all zeros are found again, as where a module has changed them.
    """
    makers = {id(placeholder): maker for placeholder, maker in notes}
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    found = {name: makers[id(leaf)] for name, leaf in named.items() if id(leaf) in makers}
    if sorted(id(named[name]) for name in found) != sorted(makers):
        return None
    values: dict[str, Array] = {}
    for kind in sorted({maker.distribution for maker in found.values()}):
        sizes = {n: named[n].size for n, maker in found.items() if maker.distribution == kind}
        values |= _draw(key, kind, sizes)
    filled = [
        found[name].scaled(values[name], leaf.shape, leaf.dtype) if name in found else leaf
        for name, leaf in named.items()
    ]
    return jax.tree.unflatten(structure, filled)


def _draw(key: Key, distribution: str, sizes: dict[str, int]) -> dict[str, Array]:
    """For each name so many independent numbers of mean 0 and variance 1."""
    # In one axis, in chunks of one length, and each operation once: all of this is to be compiled.
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") for name in sizes]
    num_chunks = [-(-size // _CHUNK) for size in sizes.values()]
    owner = np.repeat(np.arange(len(words)), num_chunks)
    place = np.concatenate([np.arange(num) for num in num_chunks]).astype(np.uint32)
    of_names = jax.vmap(jax.random.fold_in, (None, 0))(key, np.array(words, np.uint32))
    keys = jax.vmap(jax.random.fold_in)(of_names[owner], place)

    def chunk(key: Key) -> Array:
        if distribution == "normal":
            return jax.random.normal(key, (_CHUNK,))
        return jax.random.uniform(key, (_CHUNK,), minval=-math.sqrt(3), maxval=math.sqrt(3))

    values = jax.vmap(chunk)(keys).ravel()
    begins = np.cumsum([0, *num_chunks])[:-1] * _CHUNK
    return {
        name: values[begin : begin + size]
        for (name, size), begin in zip(sizes.items(), begins.tolist(), strict=True)
    }
