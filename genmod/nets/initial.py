"""Initial weights of a network, all from one draw.

XLA takes longer to compile a draw of random numbers than to compile a layer. So an `Initializer`
that is called while a network is initialised returns zeros and takes a note of the weights that
belong there. Afterwards `drawn` draws all of these weights in one call and splits the result. An
initial weight depends only on the key, the parameter's name and the weight's index in it: one more
layer changes no other weight.
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
"""Number of values drawn from one key.

Each parameter starts a new chunk and takes as many chunks as it needs.
"""

_notes: contextvars.ContextVar["list[tuple[Array, Initializer]] | None"] = contextvars.ContextVar(
    "notes", default=None
)


class Initializer(NamedTuple):
    """Initializer of weights, for flax.

    It is called as `(key, shape, dtype) -> weights`.

    Attributes:
      distribution: "normal" or "uniform" for independent weights of mean 0, "orthogonal" for those
        of a random orthogonal matrix.
      deviation: standard deviation of the weights, as a function of their shape [..., in, out].
      parts: number of layers side by side, equal parts of the columns.
    """

    distribution: Literal["normal", "uniform", "orthogonal"]
    deviation: Callable[[Sequence[int]], float]
    parts: int = 1

    def __call__(self, key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        """Returns the weights; within `noted`, zeros in their place.

        `drawn` later replaces the zeros.
        """
        notes = _notes.get()
        if notes is None:
            values = drawn_numbers(key, self.source, {"": math.prod(shape)})[""]
            return self.scaled(values, shape, dtype)
        placeholder = jnp.zeros(shape, dtype)
        notes.append((placeholder, self))
        return placeholder

    def scaled(self, values: Array, shape: Sequence[int], dtype: Any) -> Array:
        """Makes numbers of variance 1, drawn from `source`, weights of a shape."""
        if self.distribution == "orthogonal":
            values = _orthogonal(values.reshape(-1, self.parts, shape[-1] // self.parts))
        return (self.deviation(shape) * values).reshape(shape).astype(dtype)

    @property
    def source(self) -> str:
        """Distribution of the numbers of which the weights are made."""
        return "uniform" if self.distribution == "uniform" else "normal"

    def in_parts(self, parts: int) -> "Initializer":
        """Returns an initializer for layers side by side.

        Equal parts of the columns are layers, each scaled by its own fan-out.
        """
        return self._replace(
            deviation=lambda shape: self.deviation((*shape[:-1], shape[-1] // parts)),
            parts=self.parts * parts,
        )


def normal(deviation: float) -> Initializer:
    """Returns an initializer of N(0, deviation^2) weights.

    Args:
      deviation: standard deviation of the weights.

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
"""He initialisation for ReLU layers: N(0, 2 / fan-in).

References:
  He et al., Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
  Classification, 2015 (arXiv:1502.01852), equation 10.
"""

glorot_uniform = Initializer("uniform", _glorot)
"""Glorot (Xavier) initialisation: uniform weights of mean 0.

Their variance is 2 / (fan-in + fan-out).

References:
  Glorot & Bengio, Understanding the Difficulty of Training Deep Feedforward Neural Networks, 2010
  (https://proceedings.mlr.press/v9/glorot10a.html), equation 16.
"""


def orthogonal(scale: float) -> Initializer:
    """Returns an initializer of random orthogonal matrices.

    A kernel [..., in, out] is a matrix W with `out` columns. Its columns, or its rows if there are
    fewer of them, are orthogonal and of length `scale`, so all its singular values are `scale`. The
    matrix is uniform among these (Haar measure).

    Args:
      scale: length of the columns or rows.

    Raises:
      ValueError: if scale is not positive.

    References:
      Saxe et al., Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
      Networks, 2014 (arXiv:1312.6120).
    """
    checks.positive("scale", scale)

    def deviation(shape: Sequence[int]) -> float:
        return scale / math.sqrt(max(math.prod(shape[:-1]), shape[-1]))

    return Initializer("orthogonal", deviation)


def _orthogonal(values: Array) -> Array:
    """Makes normal numbers orthogonal matrices, of which each has the mean square 1.

    Args:
      values: independent N(0, 1) numbers of `parts` matrices, [n, parts, m].

    Returns:
      Matrices of the same shape.
    """
    matrices = values.transpose(1, 0, 2)
    wide = matrices.shape[1] < matrices.shape[2]
    tall = matrices.mT if wide else matrices
    q, r = jnp.linalg.qr(tall)
    # The signs make the factorisation unique, and so the distribution uniform.
    signs = jnp.where(jnp.diagonal(r, axis1=1, axis2=2) < 0, -1, 1)
    q = q * signs[:, None, :] * math.sqrt(tall.shape[1])
    return (q.mT if wide else q).transpose(1, 0, 2)


@contextlib.contextmanager
def noted() -> Iterator[list[tuple[Array, Initializer]]]:
    """Makes initializers return zeros, and yields their notes.

    A note is a pair of the zeros and their `Initializer`. The list grows while the context is open.
    """
    notes: list[tuple[Array, Initializer]] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def drawn(key: Key, params: Params, notes: Sequence[tuple[Array, Initializer]]) -> Params | None:
    """Replaces the zeros of `noted` by drawn weights.

    Args:
      key: key of the network.
      params: parameters from the network's initialisation within `noted`.
      notes: notes that `noted` has yielded.

    Returns:
      The parameters; None if some zeros are not among `params`, because a module has changed them.
    """
    makers = {id(placeholder): maker for placeholder, maker in notes}
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    maker_of = {name: makers[id(leaf)] for name, leaf in named.items() if id(leaf) in makers}
    if sorted(id(named[name]) for name in maker_of) != sorted(makers):
        return None
    values: dict[str, Array] = {}
    for kind in sorted({maker.source for maker in maker_of.values()}):
        sizes = {n: named[n].size for n, maker in maker_of.items() if maker.source == kind}
        values |= drawn_numbers(key, kind, sizes)
    filled = [
        maker_of[name].scaled(values[name], leaf.shape, leaf.dtype) if name in maker_of else leaf
        for name, leaf in named.items()
    ]
    return jax.tree.unflatten(structure, filled)


def drawn_numbers(key: Key, distribution: str, sizes: dict[str, int]) -> dict[str, Array]:
    """Draws numbers of mean 0 and variance 1.

    Args:
      key: a single key.
      distribution: "normal" or "uniform".
      sizes: number of values for each name.
    """
    # XLA must compile all of this, so the draw has one axis, chunks of one length, and each
    # operation only once.
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") for name in sizes]
    num_chunks = [-(-size // _CHUNK) for size in sizes.values()]
    owner = np.repeat(np.arange(len(words)), num_chunks)
    index = np.concatenate([np.arange(num) for num in num_chunks]).astype(np.uint32)
    of_names = jax.vmap(jax.random.fold_in, (None, 0))(key, np.array(words, np.uint32))
    keys = jax.vmap(jax.random.fold_in)(of_names[owner], index)

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
