"""Gradients of a mean over examples, taken at once or microbatch by microbatch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks, devices
from genmod.types import Array, Batch, Metrics, Params


def of_mean(
    function: Callable[[Params, Batch], tuple[Array, Metrics]],
    params: Params,
    examples: Batch,
    *,
    microbatches: int = 1,
) -> tuple[tuple[Array, Metrics], Params]:
    """`jax.value_and_grad(function, has_aux=True)`, with `microbatches` times less memory.

    The examples are cut into equal microbatches (gradient accumulation). Value and gradient are the
    means over them, the terms those of all examples in their order. For a function that is itself a
    mean over examples this is the same number, up to rounding; for one whose examples look at each
    other (normalisation over the batch) it is not.

    Args:
      function: `(params, examples) -> (value [], terms)`: a mean over the examples, and each
        example's values by name, [B] each.
      params: what to differentiate by.
      examples: a tree of arrays [B, ...], keys included.
      microbatches: into how many to cut the batch.

    Raises:
      ValueError: if microbatches does not divide the batch.
    """
    take = jax.value_and_grad(function, has_aux=True)
    if microbatches == 1:
        return take(params, examples)
    cut = split_batch("batch", examples, microbatches, "microbatches")

    def add(total: Any, microbatch: Batch) -> tuple[Any, Metrics]:
        (value, terms), gradient = take(params, microbatch)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, (value, gradient)), terms

    with devices.cut(devices.MICROBATCHES):
        microbatch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), cut
        )
        (value, _), gradient = jax.eval_shape(take, params, microbatch)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, checks.summed_as(leaf.dtype)), (value, gradient)
        )
        total, terms = jax.lax.scan(add, zeros, cut)
    value, gradient = jax.tree.map(
        lambda leaf, like: (leaf / microbatches).astype(like.dtype), total, (value, gradient)
    )
    return (value, join(terms)), gradient


def split_batch(name: str, examples: Batch, num: int, what: str) -> Batch:
    """A tree of [B, ...] as one of [num, B / num, ...].

    Part i holds the examples i, i + num, ...: where consecutive examples lie on several devices,
    each device has its share of every part.

    Raises:
      ValueError: if num does not divide B.
    """
    size = checks.leading_axis(name, examples)
    if size % num:
        raise ValueError(f"{name} of {size} examples cannot be cut into {num} equal {what}")

    def cut(leaf: Array) -> Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # As words: JAX's check that no key is used twice takes a transposition for a use.
            words = cut(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return jnp.moveaxis(leaf.reshape(size // num, num, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(cut, examples)


def join(parts: Batch) -> Batch:
    """Joins the parts of `split_batch`, [num, B / num, ...], in their order again: [B, ...].

    What a part has one of, not one for each example, [num], stays as it is.
    """

    def whole(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 1, 0).reshape(-1, *leaf.shape[2:]) if leaf.ndim > 1 else leaf

    return jax.tree.map(whole, parts)


def mean(values: Array) -> Array:
    """The mean of a term over its examples, in float32 at least, whatever its type."""
    return jnp.mean(values, dtype=checks.summed_as(values.dtype))


def means(terms: Metrics) -> Metrics:
    """The mean of each term over the examples, wherever they are."""
    return devices.mean({name: mean(values) for name, values in terms.items()})


def norm(gradient: Params) -> Array:
    """The Euclidean norm of a whole gradient."""
    # As products, not as reductions: the latter run in scalar code on a CPU.
    squares = (jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient))
    return jnp.sqrt(sum(squares, jnp.zeros(())))
