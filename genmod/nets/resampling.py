"""Images at twice or half their size."""

from typing import Literal

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array

Kind = Literal["block", "smooth"]
_KINDS = ("block", "smooth")


def enlarged(x: Array, *, kind: Kind = "block") -> Array:
    """Doubles images, [B, H, W, C] -> [B, 2 H, 2 W, C].

    Args:
      x: images [B, H, W, C].
      kind: "block" repeats each pixel (nearest neighbour). "smooth" makes each new pixel of 3/4 of
        the nearest old one and 1/4 of the next along each axis, with zeros outside of the images
        (bilinear, the filter [1, 3, 3, 1]).

    Raises:
      ValueError: if x is not [B, H, W, C] or the kind is unknown.
    """
    _check(x, kind)
    if kind == "block":
        batch, height, width, channels = x.shape
        blocks = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
        return blocks.reshape(batch, 2 * height, 2 * width, channels)
    for axis in (1, 2):
        before, after = _neighbours(x, x, axis)
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def reduced(x: Array, *, kind: Kind = "block") -> Array:
    """Halves images, [B, H, W, C] -> [B, H / 2, W / 2, C].

    Either kind is a quarter of the adjoint of `enlarged`.

    Args:
      x: images [B, H, W, C] of an even height and width.
      kind: "block" takes the mean of each block of 2 x 2 pixels. "smooth" takes the filter
        [1, 3, 3, 1] / 8 along each axis, with zeros outside of the images.

    Raises:
      ValueError: if x is not [B, H, W, C] with even H and W, or the kind is unknown.
    """
    _check(x, kind)
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"images must have an even height and width, got shape {x.shape}")
    if kind == "block":
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    for axis in (1, 2):
        pair = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        first, second = (jnp.squeeze(one, axis + 1) for one in jnp.split(pair, 2, axis + 1))
        before, after = _neighbours(second, first, axis)
        x = 0.375 * (first + second) + 0.125 * (before + after)
    return x


def _neighbours(x: Array, y: Array, axis: int) -> tuple[Array, Array]:
    """Returns x shifted up by a pixel and y shifted down, with zeros at the ends."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (1, 0)
    before = jax.lax.slice_in_dim(jnp.pad(x, pads), 0, x.shape[axis], axis=axis)
    pads[axis] = (0, 1)
    after = jax.lax.slice_in_dim(jnp.pad(y, pads), 1, y.shape[axis] + 1, axis=axis)
    return before, after


def _check(x: Array, kind: str) -> None:
    checks.known("kind of resampling", kind, _KINDS)
    if x.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C], got shape {x.shape}")
