"""Gradients of a mean over examples.

They are taken in one call or microbatch by microbatch (gradient accumulation).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks, devices
from genmod.types import Array, Batch, Metrics, Params, Parts


def of_mean(
    function: Callable[[Params, Batch], tuple[Array, Any]],
    params: Params,
    examples: Batch,
    *,
    microbatches: int = 1,
) -> tuple[tuple[Array, Any], Params]:
    """Returns value and gradient of a mean over examples.

    This is `jax.value_and_grad(function, has_aux=True)` with `microbatches` times less memory: the
    examples are cut into equal microbatches (gradient accumulation). Value and gradient are the
    means over the microbatches; the terms are those of all examples, in their order. If the
    function is itself a mean over examples, the result is the same up to rounding. If examples
    interact, it is not: batch normalisation, for instance, refuses microbatches.

    Args:
      function: function `(params, examples) -> (value [], terms)`, which returns a mean over the
        examples, and a tree of each example's values, [B, ...] each.
      params: parameters to differentiate by.
      examples: tree of arrays [B, ...], keys included.
      microbatches: number of equal parts into which the batch is cut.

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

    with devices.microbatch():
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


def num_examples(batch: Batch) -> int:
    """Returns the number of examples of all parts."""
    if isinstance(batch, Parts):
        return sum(map(num_examples, batch.values()))
    return checks.leading_axis("batch", batch)


def split_batch(name: str, examples: Batch, num: int, what: str) -> Batch:
    """Cuts arrays [B, ...] into parts, [num, B / num, ...].

    Part i holds the examples i, i + num, ... If consecutive examples lie on several devices, each
    device then has its share of every part.

    Args:
      name: name of the examples, for the message.
      examples: tree of arrays [B, ...]; those of several parts (`Parts`) have a B each.
      num: number of parts.
      what: name of the parts, for the message.

    Raises:
      ValueError: if num does not divide B.
    """

    def cut(leaf: Array) -> Array:
        size = len(leaf)
        if size % num:
            raise ValueError(f"{name} of {size} examples cannot be cut into {num} equal {what}")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Keys are cut as words: JAX's check that no key is used twice counts a transposition.
            words = cut(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return jnp.moveaxis(leaf.reshape(size // num, num, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(cut, examples)


def join(parts: Batch) -> Batch:
    """Joins the parts of `split_batch` in the original order.

    An array [num, B / num, ...] becomes [B, ...]. An array [num], with one value for each part,
    stays as it is.
    """

    def whole(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 1, 0).reshape(-1, *leaf.shape[2:]) if leaf.ndim > 1 else leaf

    return jax.tree.map(whole, parts)


def mean(values: Array) -> Array:
    """Returns the mean of a term over its examples.

    It is taken in float32 at least, whatever the type of the term.
    """
    return jnp.mean(values, dtype=checks.summed_as(values.dtype))


def means(terms: Metrics) -> Metrics:
    """Returns the mean of each term over the examples of all devices."""
    return devices.mean({name: mean(values) for name, values in terms.items()})


def norm(gradient: Params) -> Array:
    """Returns the Euclidean norm of a whole gradient.

    Squares are summed in float32 at least, whatever the types of the gradient.
    """

    def square(leaf: Array) -> Array:
        # XLA's CPU backend compiles a product to vector code, but a reduction to scalar code.
        return jnp.vdot(leaf, leaf, preferred_element_type=checks.summed_as(leaf.dtype))

    return jnp.sqrt(sum(map(square, jax.tree.leaves(gradient)), jnp.zeros(())))


def check_whole_batch(what: str, whole_batch: bool, microbatches: int) -> None:
    """Refuses microbatches of an objective that looks at its batch as a whole."""
    if whole_batch and microbatches > 1:
        raise ValueError(
            f"{what} looks at its batch as a whole (whole_batch=True), so microbatches must be 1, "
            f"got {microbatches}"
        )
