"""Convolutions with fewer products, by minimal filtering.

Along an axis, m outputs of a kernel with r taps take m r products. Of sums of the inputs and sums
of the taps, m + r - 1 products are enough, whose sums are the outputs (Winograd 1980). With
constant matrices B, G and A,

    output = A [(G kernel) * (B input)],

where * is a matrix product over the channels for each of the points, of which there are
(m + r - 1)^2 for two axes. B, G and A are applied as matrix products too, for both axes at once. A
convolution with a stride s is one without, of blocks of s x s pixels.

In float32 the result is off by about 1e-6 of its standard deviation, three to ten times the
rounding error of a sum of all products.

References:
  Winograd, Arithmetic Complexity of Computations, 1980 (chapter 5).
  Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016
  (https://arxiv.org/abs/1509.09308).
  Barabasz, Anderson, Soodhalter & Gregg, Error Analysis and Improving the Accuracy of Winograd
  Convolution for Deep Neural Networks, 2020 (https://arxiv.org/abs/1803.10986; the points).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from genmod.types import Array

# Polynomials of the inputs and of the kernel are multiplied by values at these points and infinity.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
# Outputs of a tile per axis. With more of them, rounding errors grow fast.
_TILE = 4
# By the kernel's taps: images of so many tiles per axis are transformed whole, so that no overlap
# of tiles is copied; and from so many products on, filtering is faster (see docs/performance.md).
_WHOLE = {2: 2, 3: 1}
_ENOUGH = {2: 2**29, 3: 2**23}


class _Axis(NamedTuple):
    """One axis of a convolution: windows of tiles, and the matrices of a window."""

    inputs: np.ndarray
    """B: [points, tiles, blocks of pixels]."""
    kernel: np.ndarray
    """G: [points, taps]."""
    outputs: np.ndarray
    """A: [outputs, points, tiles]."""
    windows: int
    stride: int
    pads: tuple[int, int]
    """Pixels to add before and after the image; below zero to take away."""
    out: int
    """Outputs of all windows, without those that nobody asked for."""

    @property
    def apart(self) -> int:
        """Blocks from the beginning of a window to that of the next one."""
        return self.inputs.shape[2] if self.windows == 1 else self.outputs.shape[0]


class Plan(NamedTuple):
    """The way to compute a convolution."""

    rows: _Axis
    columns: _Axis

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the matrices for both axes at once.

        They are B [points tiles, blocks], G [points, taps] and A [outputs, points tiles].
        """
        rows, columns = self.rows, self.columns
        into = np.einsum("pti,quj->pqtuij", rows.inputs, columns.inputs)
        back = np.einsum("ipt,jqu->ijpqtu", rows.outputs, columns.outputs)
        return (
            into.reshape(math.prod(into.shape[:4]), -1),
            np.kron(rows.kernel, columns.kernel),
            back.reshape(math.prod(back.shape[:2]), -1),
        )

    def products(self, inputs: int, outputs: int) -> int:
        """Returns the number of products for an image, by its channels."""
        into, kernel, back = self.matrices()
        inner = self.rows.stride * self.columns.stride * inputs
        tiles = into.shape[0] // kernel.shape[0]
        of_a_window = (
            tiles * kernel.shape[0] * inner * outputs + into.size * inner + back.size * outputs
        )
        return self.rows.windows * self.columns.windows * of_a_window


def plan(
    shape: Sequence[int],
    kernel: Sequence[int],
    dtype: DTypeLike,
    *,
    strides: Sequence[int],
    before: Sequence[int],
    out: Sequence[int],
) -> Plan | None:
    """Plans a convolution.

    Args:
      shape: shape of the images, [B, H, W, I].
      kernel: shape of the kernel, [kh, kw, I, O].
      dtype: their dtype.
      strides: pixels from one window of the kernel to the next, per axis.
      before: zeros above and to the left of the images.
      out: windows of the kernel, per axis.

    Returns:
      The plan for `conv`, or None if a sum of all products is faster, or if numbers of this dtype
      are too coarse.
    """
    taps = [-(-k // s) for k, s in zip(kernel[:2], strides, strict=True)]
    plain = math.prod(out) * math.prod(kernel)
    if min(taps) < 2 or shape[0] * plain < _ENOUGH.get(max(taps), math.inf):
        return None
    if dtype not in (jnp.float32, jnp.float64) or min(before) < 0:
        return None
    axes = zip(shape[1:3], kernel[:2], strides, before, out, strict=True)
    made = Plan(*(_axis(*axis) for axis in axes))
    return made if made.products(*kernel[2:]) < plain else None


def conv(x: Array, kernel: Array, plan: Plan) -> Array:
    """Convolves images with a kernel.

    Args:
      x: images [B, H, W, I].
      kernel: weights [kh, kw, I, O].
      plan: what `plan` returns for their shapes.

    Returns:
      Images [B, h, w, O].
    """
    rows, columns = plan
    into, taps, back = (jnp.asarray(matrix, x.dtype) for matrix in plan.matrices())
    points, channels = len(taps), rows.stride * columns.stride * x.shape[3]
    x_sums = (into @ _blocks(x, plan)).reshape(points, -1, channels)
    # XLA's CPU backend is faster if the kernel is wide: see docs/performance.md.
    wide = channels > kernel.shape[3]
    kernel_sums = lax.optimization_barrier(taps @ _taps(kernel, plan, wide))
    if wide:
        products = jnp.einsum("pnk,pmk->pnm", x_sums, kernel_sums.reshape(points, -1, channels))
    else:
        products = jnp.einsum("pnk,pkm->pnm", x_sums, kernel_sums.reshape(points, channels, -1))
    y = back @ products.reshape(back.shape[1], -1)

    height, width = len(rows.outputs), len(columns.outputs)
    y = y.reshape(height, width, rows.windows, columns.windows, x.shape[0], kernel.shape[3])
    y = y.transpose(4, 2, 0, 3, 1, 5)
    y = y.reshape(x.shape[0], rows.windows * height, columns.windows * width, kernel.shape[3])
    return y[:, : rows.out, : columns.out]


@functools.cache
def _axis(size: int, window: int, stride: int, before: int, out: int) -> _Axis:
    taps = -(-window // stride)
    tile = min(_TILE, out)
    tiles = -(-out // tile)
    of_inputs, kernel, of_outputs = _matrices(tile, taps)
    points = len(kernel)
    if tiles > _WHOLE[taps]:
        # Each window is a tile, and reads the first blocks of the next one too.
        pads = (before, (tiles + 1) * tile * stride - before - size)
        inputs, outputs = of_inputs[:, None], of_outputs[:, :, None]
        return _Axis(inputs, kernel, outputs, tiles, stride, pads, out)
    inputs = np.zeros((points, tiles, tiles * tile + taps - 1))
    outputs = np.zeros((tiles * tile, points, tiles))
    for index in range(tiles):
        start = index * tile
        inputs[:, index, start : start + points] = of_inputs
        outputs[start : start + tile, :, index] = of_outputs
    # Blocks that hold nothing but padding are left out.
    first, low = divmod(before, stride)
    last = min(-(-(before + size) // stride), out + taps - 1)
    pads = (low, (last - first) * stride - low - size)
    return _Axis(inputs[:, :, first:last], kernel, outputs[:out], 1, stride, pads, out)


@functools.cache
def _matrices(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns B [points, points], G [points, taps] and A [outputs, points] of a tile.

    A product of two polynomials, with `outputs` and `taps` coefficients, is interpolated from the
    products of their values at the points (Toom-Cook). The convolution is the adjoint of that
    product in its first factor.
    """
    points = outputs + taps - 1

    def values(coefficients: int) -> np.ndarray:
        finite = np.vander(_POINTS[: points - 1], coefficients, increasing=True)
        return np.concatenate([finite, np.eye(coefficients)[-1:]])

    return np.linalg.inv(values(points)).T, values(taps), values(outputs).T


def _blocks(x: Array, plan: Plan) -> Array:
    """Returns images as a matrix of blocks.

    A row has the values of one block of pixels in a window, [windows, windows, B, pixels, I].
    """
    zeros = [(0, 0, 0), *((*axis.pads, 0) for axis in plan), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), zeros)
    down, right = ((axis.windows + (axis.windows > 1), axis.apart, axis.stride) for axis in plan)
    x = x.reshape(x.shape[0], *down, *right, x.shape[3]).transpose(2, 5, 1, 4, 0, 3, 6, 7)
    x = x.reshape(*x.shape[:4], -1)
    for index, axis in enumerate(plan):
        if axis.windows > 1:
            # A window holds its own blocks and the first ones of the next window.
            own = lax.slice_in_dim(x, 0, axis.windows, axis=2 + index)
            following = lax.slice_in_dim(x, 1, axis.windows + 1, axis=2 + index)
            more = axis.inputs.shape[2] - axis.apart
            following = lax.slice_in_dim(following, 0, more, axis=index)
            x = jnp.concatenate([own, following], axis=index)
    return x.reshape(x.shape[0] * x.shape[1], -1)


def _taps(kernel: Array, plan: Plan, wide: bool) -> Array:
    """Returns the kernel as a matrix of blocks.

    A row has the values of one block of stride x stride: [pixels, I, O], or [O, pixels, I] where
    `wide`.
    """
    (height, down), (width, right) = ((axis.kernel.shape[1], axis.stride) for axis in plan)
    zeros = [(0, height * down - kernel.shape[0]), (0, width * right - kernel.shape[1])]
    kernel = jnp.pad(kernel, (*zeros, (0, 0), (0, 0)))
    kernel = kernel.reshape(height, down, width, right, *kernel.shape[2:])
    order = (0, 2, 5, 1, 3, 4) if wide else (0, 2, 1, 3, 4, 5)
    return kernel.transpose(order).reshape(height * width, -1)
