"""Where every key comes from: one root, named streams, the step and the example folded in.

A key is a function of (seed, stream, step, example) and of nothing else, so there is no generator
state to save, a resumed run draws what the uninterrupted one would have drawn, and an example's
noise stays the same when the batch is cut up differently. That takes keys of threefry2x32: those
of JAX's other generators draw something else when they are mapped over, and are refused with a
ValueError by all that derives a key from one.
"""

import hashlib

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array, Key, Keys

_IMPL = "threefry2x32"
"""The generator of all keys, whatever JAX's default is: the same numbers mapped or alone."""


def _fold_in(key: Key, number: int | Array) -> Key:
    """`jax.random.fold_in`, of each where there are many keys."""
    _check(key)
    if key.ndim:
        return jax.vmap(_fold_in, in_axes=(0, None))(key, number)
    return jax.random.fold_in(key, number)


def _check(key: Key | Keys) -> None:
    """Refuses keys whose numbers change when they are mapped over, as all but threefry's do."""
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
    """The key that all others of a run are derived from.

    Args:
      seed: a whole number in [0, 2**32).

    Raises:
      ValueError: if seed is not such a number.
    """
    return jax.random.key(checks.seed("seed", seed), impl=_IMPL)


def stream(key: Key, name: str) -> Key:
    """The key of the stream called `name`: naming a new stream shifts no other.

    Of many keys, such as those of examples or of runs, each gets its own: what one example draws
    for two purposes is independent.

    Names are hashed with SHA-256, not with Python's salted `hash`, so that they mean the same in
    every process.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return _fold_in(key, int.from_bytes(digest[:4], "big"))


def at_step(key: Key, step: int | Array) -> Key:
    """The key of one step: a run that resumes at a step needs the root key and the step alone.

    Of many keys, each gets its own.
    """
    return _fold_in(key, step)


def of_seeds(key: Key, num: int) -> Keys:
    """The keys of `num` runs: of seed, seed + 1, ... where `key` is `root(seed)`; [num].

    Seeds are counted modulo 2**32.
    """
    _check(key)
    # Which words of a key hold its seed, and how often, is the implementation's business: ask it.
    impl = jax.random.key_impl(key)
    first, second = (jax.random.key_data(jax.random.key(seed, impl=impl)) for seed in (0, 1))
    words = jnp.arange(num, dtype=jnp.uint32)[:, None] * (second - first)[None]
    return jax.random.wrap_key_data(jax.random.key_data(key)[None] + words, impl=impl)


def per_example(key: Key, num: int, *, axis_name: str | None = None) -> Keys:
    """One key per example, [num]: the noise belongs to the example.

    Example i gets the same key however the batch is split: pass the name of the mapped axis when
    each device holds `num` consecutive examples of a larger batch.

    Args:
      key: a single key.
      num: number of examples held here.
      axis_name: the mapped axis over which the batch is split, if any.

    Raises:
      ValueError: if key is not single, or not of the kind that `root` makes.
    """
    _check(key)
    if key.ndim:
        raise ValueError(f"key must be a single key, of shape [], got {list(key.shape)}")
    index = jnp.arange(num, dtype=jnp.uint32)
    if axis_name is not None:
        index = index + jax.lax.axis_index(axis_name).astype(jnp.uint32) * num
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
