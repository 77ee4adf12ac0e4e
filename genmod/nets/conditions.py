"""Networks of an example and a condition, such as its class.

A condition c travels with its example: it is an argument beside x, and is cut, shuffled and shared
among devices as x is.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Key, Net, Params


def conditional(net: Net, classes: int | None = None) -> Net:
    """Makes a network that gets a condition beside its input.

    It appends the condition to the flattened input. All conditions share the parameters. Used for
    both networks of a VAE it makes the conditional VAE, for both of a GAN the conditional GAN.

    Args:
      net: network of vectors [B, D]: an `mlp`, or a generator of latents. It gets the flattened
        input, then the flattened condition.
      classes: number of classes, if the condition is a label: a whole number in [0, classes) for
        each example, [B], or several, [B, n], such as those of a pack. Each label is appended as a
        one-hot vector times sqrt(classes), whose mean square is 1, the same as that of latents.
        None for any other condition: a tree of arrays [B, ...] of floating numbers or booleans,
        such as attributes or images, which are appended as they are, in the order of the tree.

    Returns:
      A Net whose functions have the condition c as a last argument: `init(key, x, c)` and
      `apply(params, x, c)`, and `standing(params, x, c)` with c [K, B, ...] if `net` has one.

    Raises:
      ValueError: if `classes` is not a positive whole number, or `net` itself needs a condition;
        when called, if the condition is not as above. The values of labels can be checked only
        outside of compiled code. Inside, a label out of range makes its example's output NaN, on
        which training stops.

    References:
      Sohn et al., Learning Structured Output Representation using Deep Conditional Generative
      Models, NeurIPS 2015.
      Mirza & Osindero, Conditional Generative Adversarial Nets, 2014 (arXiv:1411.1784).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.conditional(nets.mlp((16,), (28, 28, 1)), 10)
      >>> z, labels = jnp.zeros((5, 3)), jnp.array([7, 7, 0, 1, 9])
      >>> net.apply(net.init(rng.root(0), z, labels), z, labels).shape
      (5, 28, 28, 1)
    """
    if classes is not None:
        checks.positive_integer("classes", classes)
    refuse_condition(net)

    def joined(x: Array, c: Any) -> Array:
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        own = vectors(c, len(x), dtype) if classes is None else _one_hot(c, classes, len(x), dtype)
        return jnp.concatenate([x.reshape(len(x), -1), own.reshape(len(x), -1)], axis=1)

    inner = net.standing
    return Net(
        init=lambda key, x, c: net.init(key, joined(x, c)),
        apply=lambda params, x, c: net.apply(params, joined(x, c)),
        standing=inner and (lambda params, x, c: inner(params, jax.vmap(joined)(x, c))),
        standing_size=net.standing_size,
    )


def per_class(net: Net, classes: int) -> Net:
    """Makes one independent network for each class.

    Every call computes the networks of all classes for the whole batch, and returns each example's
    own: it costs `classes` times as much as one network.

    Args:
      net: any network whose examples do not interact.
      classes: number of classes.

    Returns:
      A Net whose parameters have a leading axis [classes], and whose condition c is a label for
      each example, a whole number in [0, classes), [B]: `init(key, x, c)`, `apply(params, x, c)`.

    Raises:
      ValueError: if `classes` is not a positive whole number, or `net` normalises over its batch or
        needs a condition; when called, if the labels are not as above. Their values are checked as
        those of `conditional`.
    """
    checks.positive_integer("classes", classes)
    refuse_condition(net)
    if net.standing is not None:
        _refuse_statistics("batch normalisation")

    def init(key: Key, x: Array, c: Array) -> Params:
        _labels(c, classes, len(x), most_axes=1)
        with devices.batch_statistics() as layers:
            params = jax.vmap(net.init, (0, None))(rng.per_example(key, classes), x)
        if layers:
            _refuse_statistics(", ".join(dict.fromkeys(layers)))
        return params

    def apply(params: Params, x: Array, c: Array) -> Array:
        labels, known = _labels(c, classes, len(x), most_axes=1)
        of_all = jax.vmap(net.apply, (0, None))(params, x)
        own = of_all[jnp.where(known, labels, 0), jnp.arange(len(x))]
        return jnp.where(known.reshape(-1, *[1] * (own.ndim - 1)), own, jnp.nan)

    return Net(init, apply)


def refuse_condition(net: Net) -> None:
    """Refuses a network that needs a condition."""
    if net.needs_condition:
        raise ValueError(
            "net must be a network of x alone, (params, x), got one that needs a condition itself"
        )


def _refuse_statistics(what: str) -> None:
    raise ValueError(
        f"net must not normalise over its batch, got {what}: the network of each class sees the "
        "examples of all classes; take norm='group', or nets.conditional"
    )


def _one_hot(c: Any, classes: int, size: int, dtype: Any) -> Array:
    """Returns labels as one-hot vectors of mean square 1.

    Labels [B, ...] become [B, ..., classes]; those out of range become NaN.
    """
    labels, known = _labels(c, classes, size)
    one_hot = math.sqrt(classes) * jax.nn.one_hot(labels, classes, dtype=dtype)
    # A choice, not a product: XLA takes the product of NaN and a converted boolean 0 to be 0.
    return jnp.where(known[..., None], one_hot, jnp.nan)


def _labels(
    c: Any, classes: int, size: int, *, most_axes: int | None = None
) -> tuple[Array, Array]:
    """Returns labels as int32, and which of them are in range.

    Raises:
      ValueError: if they are not whole numbers [B, ...], or known values are out of range.
    """
    dtype, shape = getattr(c, "dtype", None), getattr(c, "shape", ())
    whole = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
    if not whole or shape[:1] != (size,) or (most_axes and len(shape) > most_axes):
        raise ValueError(
            f"labels must be whole numbers, one for each of {size} examples, "
            f"got {checks.described(c)}"
        )
    if not isinstance(c, jax.core.Tracer) and size:
        # NumPy's functions of a jax.Array are traced inside of a trace, those of its copy are not.
        known = np.asarray(c)
        least, most = int(known.min()), int(known.max())
        if least < 0 or most >= classes:
            raise ValueError(
                f"labels must be in [0, {classes}), one of {classes} classes, "
                f"got values from {least} to {most}"
            )
    # Before the cast, which could bring a wider type's numbers into the range.
    c = jnp.asarray(c)
    return c.astype(jnp.int32), (c >= 0) & (c < classes)


def of_class(values: Array, c: Any, size: int) -> Array:
    """Returns the row of each example's class, [size, D].

    A label out of range gets a row of NaN.

    Args:
      values: one row for each class, [classes, D].
      c: labels [size], checked as those of `conditional`.
      size: number of examples.
    """
    labels, known = _labels(c, len(values), size, most_axes=1)
    return jnp.where(known[:, None], values[jnp.where(known, labels, 0)], jnp.nan)


def vectors(c: Any, size: int, dtype: Any) -> Array:
    """Returns a condition that is not a label as vectors [size, D].

    Raises:
      ValueError: if it is not a tree of floating numbers or booleans [size, ...].
    """
    leaves = jax.tree.leaves(c)
    for leaf in leaves:
        found, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", ())
        numbers = found is not None and (
            jnp.issubdtype(found, jnp.floating) or jnp.issubdtype(found, jnp.bool_)
        )
        if not numbers or shape[:1] != (size,):
            hint = (
                "; for labels give the number of classes"
                if found is not None and jnp.issubdtype(found, jnp.integer)
                else ""
            )
            raise ValueError(
                f"the condition must be floating numbers or booleans [{size}, ...], one entry for "
                f"each example, got {checks.described(leaf)}{hint}"
            )
    if not leaves:
        raise ValueError(f"the condition must hold at least one array, got {checks.described(c)}")
    rows = [jnp.asarray(leaf).astype(dtype).reshape(size, -1) for leaf in leaves]
    return jnp.concatenate(rows, axis=1)
