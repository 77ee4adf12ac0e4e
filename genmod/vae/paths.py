"""Paths through a latent space, for a decoder to show."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array


def interpolate(
    a: Array | np.ndarray, b: Array | np.ndarray, num: int, *, kind: str = "linear"
) -> Array:
    """Returns codes at equal steps from a to b.

    With t from 0 to 1, the kind "linear" gives

        (1 - t) a + t b,

    and "slerp" (spherical linear interpolation) turns the direction of a into that of b at constant
    angular speed, while the norm changes linearly:

        ((1 - t) |a| + t |b|) (cos(t w) u + sin(t w) v),

    with w the angle between a and b, u the direction of a, and v perpendicular to it, in the plane
    of a and b. Between two draws from N(0, I), whose norms are nearly equal, slerp keeps that norm,
    and a line passes through codes of smaller norms. Between opposite directions slerp passes
    through one of many perpendicular directions, always the same; if a or b is zero it is the line.

    Args:
      a: first codes, [..., L].
      b: last codes, of the same shape.
      num: number of codes on each path, a and b among them; at least 2.
      kind: "linear" or "slerp".

    Returns:
      [num, ..., L]. The first is a and the last is b, exactly.

    Raises:
      ValueError: if the shapes differ or have no axis, num is less than 2, or the kind is unknown.

    References:
      White, Sampling Generative Networks, 2016 (arXiv:1609.04468), section 2.1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> vae.interpolate(jnp.array([0.0, 2.0]), jnp.array([2.0, 0.0]), 3).tolist()
      [[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]
    """
    a, b = _floating(a), _floating(b)
    if a.shape != b.shape or not a.ndim:
        raise ValueError(f"a and b must have one shape [..., L], got {a.shape} and {b.shape}")
    if checks.positive_integer("num", num) < 2:
        raise ValueError(f"num must be at least 2, as a and b are among the codes, got {num}")
    checks.known("kind", kind, _KINDS)
    dtype = jnp.result_type(a, b)
    first, last = a[None].astype(dtype), b[None].astype(dtype)
    steps = jnp.arange(1, num - 1, dtype=dtype) / (num - 1)
    between = _KINDS[kind](first, last, steps.reshape(-1, *[1] * a.ndim))
    return jnp.concatenate([first, between, last])


def traverse(
    z: Array | np.ndarray, dimension: int, values: Sequence[float] | Array | np.ndarray
) -> Array:
    """Returns copies of a code with other values of one latent.

    Args:
      z: one code, [L].
      dimension: index of the latent that is changed, in [0, L).
      values: its values, [K], such as `jnp.linspace(-3, 3, 7)`.

    Returns:
      [K, L]. All other latents are as in z.

    Raises:
      ValueError: if a shape or the dimension is not as above.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> vae.traverse(jnp.array([5.0, 6.0]), 1, [-1.0, 1.0]).tolist()
      [[5.0, -1.0], [5.0, 1.0]]
    """
    z, values = _floating(z), _floating(values)
    if z.ndim != 1 or values.ndim != 1:
        raise ValueError(
            f"z and values must have the shapes [L] and [K], got {z.shape} and {values.shape}"
        )
    try:
        index = operator.index(dimension)
    except TypeError:
        index = -1
    if isinstance(dimension, bool) or not 0 <= index < len(z):
        raise ValueError(f"dimension must be a whole number in [0, {len(z)}), got {dimension!r}")
    codes = jnp.broadcast_to(z.astype(jnp.result_type(z, values)), (len(values), len(z)))
    return codes.at[:, index].set(values)


def _floating(codes: Any) -> Array:
    """Returns an array of a floating type."""
    codes = jnp.asarray(codes)
    return codes if jnp.issubdtype(codes.dtype, jnp.floating) else codes.astype(jnp.float32)


def _linear(a: Array, b: Array, t: Array) -> Array:
    return (1 - t) * a + t * b


def _spherical(a: Array, b: Array, t: Array) -> Array:
    """Returns codes on the arcs from a to b [1, ..., L], at t [T, ..., 1]."""
    u, towards = _unit(a), _unit(b)
    norm = _linear(_norm(a), _norm(b), t)

    def perpendicular(x: Array) -> Array:
        return x - jnp.sum(x * u, axis=-1, keepdims=True) * u

    rest = perpendicular(towards)
    angle = jnp.arctan2(_norm(rest), jnp.sum(towards * u, axis=-1, keepdims=True))
    # A rest as small as its rounding error has no direction: the axis along which u is least has.
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(u), axis=-1), a.shape[-1], dtype=a.dtype)
    defined = _norm(rest) > 8 * jnp.finfo(a.dtype).eps
    # The second projection takes away what the rounding of a small rest left along u.
    v = _unit(perpendicular(_unit(jnp.where(defined, rest, axis))))
    arc = norm * (jnp.cos(t * angle) * u + jnp.sin(t * angle) * v)
    return jnp.where((_norm(a) > 0) & (_norm(b) > 0), arc, _linear(a, b, t))


def _norm(x: Array) -> Array:
    """Returns norms [..., 1], without overflow in the squares."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=-1, keepdims=True))


def _unit(x: Array) -> Array:
    """Returns directions; that of zero is zero."""
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1)


_KINDS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "linear": _linear,
    "slerp": _spherical,
}
