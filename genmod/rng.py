"""Random keys: one root per run, named streams, steps and examples.

A key is a function of (seed, stream, step, example) and of nothing else. So there is no generator
state to save, a resumed run draws the same numbers as an uninterrupted one, and an example's noise
does not depend on how the batch is split.

All keys use the implementation threefry2x32. JAX's other implementations draw different numbers
under `jax.vmap`; every function that derives a key refuses them with a ValueError.
"""

import hashlib

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array, Key, Keys

_IMPL = "threefry2x32"
"""Implementation of all keys, whatever JAX's default is.

It draws the same numbers under `jax.vmap` as without it.
"""


def _fold_in(key: Key, number: int | Array) -> Key:
    """Applies `jax.random.fold_in` to one key or to each of many."""
    _check(key)
    if key.ndim:
        return jax.vmap(_fold_in, in_axes=(0, None))(key, number)
    return jax.random.fold_in(key, number)


def _check(key: Key | Keys) -> None:
    """Refuses keys of any implementation but threefry2x32.

    The numbers of other implementations change under `jax.vmap`.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    found = str(jax.random.key_impl(key)) if typed else None
    if found != _IMPL:
        got = f"one of {found}" if typed else f"{type(key).__name__} {dtype or ''}".strip()
        raise ValueError(
            f"key must be a typed key of {_IMPL}, as rng.root(seed) makes it, got {got}: only with "
            "those does an example's noise not depend on how it is batched"
        )


def root(seed: int) -> Key:
    """Returns the root key of a run.

    All other keys of the run are derived from it.

    Args:
      seed: whole number in [0, 2**32).

    Raises:
      ValueError: if seed is not such a number.
    """
    return jax.random.key(checks.seed("seed", seed), impl=_IMPL)


def stream(key: Key, name: str) -> Key:
    """Returns the key of the stream called `name`.

    Accepts one key or an array of keys (one per example or per run) and returns as many. Streams of
    different names are independent, and adding a stream changes no other.

    Names are hashed with SHA-256, not with Python's salted `hash`, so that a name means the same
    stream in every process.

    >>> from genmod import rng
    >>> key = rng.root(0)
    >>> dropout = rng.stream(key, "dropout")
    >>> bool(dropout == rng.stream(key, "dropout")), bool(dropout == rng.stream(key, "latent"))
    (True, False)
    >>> rng.stream(rng.per_example(key, 3), "latent").shape  # one key per example
    (3,)
    """
    digest = hashlib.sha256(name.encode()).digest()
    return _fold_in(key, int.from_bytes(digest[:4], "big"))


def at_step(key: Key, step: int | Array) -> Key:
    """Returns the key of one step.

    It depends on `key` and `step` alone, so a run can resume at any step. Accepts one key or an
    array of keys and returns as many.
    """
    return _fold_in(key, step)


def of_seeds(key: Key, num: int) -> Keys:
    """Returns the keys of `num` runs with consecutive seeds, [num].

    If `key` is `root(seed)`, these are the root keys of seed, seed + 1, ..., modulo 2**32.
    """
    _check(key)
    # The keys of the seeds 0 and 1 differ in the words that hold the seed, by what one seed adds.
    impl = jax.random.key_impl(key)
    first, second = (jax.random.key_data(jax.random.key(seed, impl=impl)) for seed in (0, 1))
    words = jnp.arange(num, dtype=jnp.uint32)[:, None] * (second - first)[None]
    return jax.random.wrap_key_data(jax.random.key_data(key)[None] + words, impl=impl)


def per_example(key: Key, num: int, *, axis_name: str | None = None) -> Keys:
    """Returns one key per example, [num].

    Example i gets the same key however the batch is split, so that its noise belongs to the
    example. If each device holds `num` consecutive examples of a larger batch, pass the name of the
    mapped axis.

    Args:
      key: a single key.
      num: number of examples held on this device.
      axis_name: name of the mapped axis over which the batch is split, if any.

    Raises:
      ValueError: if key is not a single key, or not of the implementation that `root` uses.
    """
    _check(key)
    if key.ndim:
        raise ValueError(f"key must be a single key, of shape [], got {list(key.shape)}")
    index = jnp.arange(num, dtype=jnp.uint32)
    if axis_name is not None:
        index = index + jax.lax.axis_index(axis_name).astype(jnp.uint32) * num
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def of_batch(keys: Keys) -> Key:
    """Returns one key for a draw of the whole batch.

    An objective that permutes its batch, for instance, draws one permutation. Such an objective
    looks at its batch as a whole, and says so (`whole_batch` of `train.learner`): else the batch
    may be cut into parts, each with a key of its own.

    Args:
      keys: keys of all examples of the batch, [B].
    """
    checks.keys(keys)
    return stream(keys, "batch")[0]
