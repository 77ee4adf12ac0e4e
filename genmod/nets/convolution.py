"""Convolutions of images [B, H, W, C] that are fast inside a loop on the CPU.

XLA's CPU convolutions are slow where training runs: the gradient of a transposed one takes several
times the time of its arithmetic, and within `lax.scan` every one of them does. Matrix products
have neither trouble. So on the CPU a convolution is here a sum of products of its patches with its
kernel (Chellapilla et al. 2006, https://inria.hal.science/inria-00112631), on other platforms it
is XLA's own, and `jax.lax.platform_dependent` chooses when a program is compiled. Both have the
same values up to rounding, and both differentiate as any JAX function does, to every order.

The patches take the memory of the images, times kernel height x width / stride^2.
"""

from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax

from genmod import checks
from genmod.types import Array

Stride = int | tuple[int, int]
Padding = str | Sequence[tuple[int, int]]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# From this many values in a block of stride x stride pixels, every block gets a product of its own:
# to add up the results is cheaper than to copy the blocks into one matrix.
_NARROW = 64


def conv(x: Array, kernel: Array, *, stride: Stride = 1, padding: Padding = "SAME") -> Array:
    """The convolution of `jax.lax.conv_general_dilated`; the kernel is not flipped.

    Args:
      x: images [B, H, W, I].
      kernel: weights [kh, kw, I, O] of the same dtype.
      stride: pixels from one window to the next; one number, or one each for height and width.
      padding: "SAME" for ceil(size / stride) windows an axis, "VALID" for those that lie within the
        image, or the zeros to add, ((top, bottom), (left, right)).

    Returns:
      Images [B, h, w, O].

    Raises:
      ValueError: if shapes or dtypes do not fit, a stride is not positive, or the padding is
        unknown or leaves no window.
    """
    _fitting(x, kernel)
    strides = _pair(stride)
    sizes, window = x.shape[1:3], kernel.shape[:2]
    if isinstance(padding, str):
        checks.known("padding", padding, ("SAME", "VALID"))
        padding = lax.padtype_to_pads(sizes, window, strides, padding)
    pads = _two_pairs(padding)
    out = tuple(
        (size + sum(pad) - k) // s + 1
        for size, pad, k, s in zip(sizes, pads, window, strides, strict=True)
    )
    if min(out) < 1:
        raise ValueError(
            f"padding must leave room for the kernel, got {pads} for x of shape {x.shape} and a "
            f"kernel of shape {kernel.shape}"
        )
    before = tuple(low for low, _ in pads)

    def products(x: Array, kernel: Array) -> Array:
        parts = map(_product, _patches(x, window, strides, before, out), _matrices(kernel, strides))
        return _total(list(parts)).reshape(x.shape[0], *out, kernel.shape[3])

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS)

    return lax.platform_dependent(x, kernel, cpu=products, default=native)


def conv_transpose(x: Array, kernel: Array, *, stride: Stride, padding: Padding = "SAME") -> Array:
    """The transposed convolution of `jax.lax.conv_transpose`, which flax's layer uses too.

    It convolves the images with `stride - 1` zeros between their pixels (the kernel is not
    flipped), and is the adjoint of the strided convolution with the flipped kernel.

    Args:
      x: images [B, h, w, I].
      kernel: weights [kh, kw, I, O] of the same dtype.
      stride: output pixels for one input pixel; one number, or one each for height and width.
      padding: "SAME" for an output of exactly `stride` times the size, "VALID" for every pixel that
        the input reaches, or the zeros to add to the input with zeros between its pixels,
        ((top, bottom), (left, right)).

    Returns:
      Images [B, H, W, O].

    Raises:
      ValueError: if shapes or dtypes do not fit, a stride is not positive, or the padding is
        unknown or leaves no pixel.
    """
    _fitting(x, kernel)
    strides = _pair(stride)
    sizes, window = x.shape[1:3], kernel.shape[:2]
    if isinstance(padding, str):
        checks.known("padding", padding, ("SAME", "VALID"))
        rule = _same_transposed if padding == "SAME" else _valid_transposed
        padding = [rule(k, s) for k, s in zip(window, strides, strict=True)]
    pads = _two_pairs(padding)
    out = tuple(
        (size - 1) * s + 1 + sum(pad) - k + 1
        for size, pad, k, s in zip(sizes, pads, window, strides, strict=True)
    )
    if min(out) < 1:
        raise ValueError(
            f"padding must leave room for the kernel, got {pads} for x of shape {x.shape} with "
            f"stride {strides} and a kernel of shape {kernel.shape}"
        )
    before = tuple(k - 1 - low for k, (low, _) in zip(window, pads, strict=True))

    def products(x: Array, kernel: Array) -> Array:
        rows = x.reshape(-1, x.shape[3])
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        patches = [_product(rows, matrix.T) for matrix in _matrices(flipped, strides)]
        add_up = jax.linear_transpose(
            lambda image: _patches(image, window, strides, before, sizes),
            jax.ShapeDtypeStruct((x.shape[0], *out, kernel.shape[3]), x.dtype),
        )
        return add_up(patches)[0]

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), pads, lhs_dilation=strides, dimension_numbers=_DIMENSIONS
        )

    return lax.platform_dependent(x, kernel, cpu=products, default=native)


def _patches(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    before: tuple[int, ...],
    out: tuple[int, ...],
) -> list[Array]:
    """What `out` windows see of the images x [B, H, W, C], as matrices with B * h * w rows.

    The first window begins `before` pixels above and to the left of the image. The columns of each
    matrix are the pixels of one block of stride x stride in the window, as in `_matrices`.
    """
    batch, *sizes, channels = x.shape
    counts = [h + -(-k // s) - 1 for h, k, s in zip(out, window, strides, strict=True)]
    zeros = [
        (low, count * s - low - size, 0)
        for low, count, s, size in zip(before, counts, strides, sizes, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *zeros, (0, 0, 0)])
    # With the blocks as axes no slice has strides. So the adjoint pads at the edges only, and adds
    # up what overlaps in one vectorised loop.
    x = x.reshape(batch, counts[0], strides[0], counts[1], strides[1], channels)
    patches = []
    for (down, height), (right, width) in _blocks(window, strides):
        block = x[:, down : down + out[0], :height, right : right + out[1], :width]
        rows = [
            block[:, :, row].reshape(batch * out[0] * out[1], width * channels)
            for row in range(height)
        ]
        patches.append(_side_by_side(rows))
    return patches if _wide(strides, channels) else [jnp.concatenate(patches, axis=1)]


def _side_by_side(parts: list[Array]) -> Array:
    """Concatenates matrices [n, m] along their columns."""
    # XLA's CPU concatenation first writes out every part and then copies; a sum of the parts, each
    # padded to its place, is one vectorised loop.
    width = parts[0].shape[1]
    return _total(
        [
            jnp.pad(part, ((0, 0), (width * index, width * (len(parts) - 1 - index))))
            for index, part in enumerate(parts)
        ]
    )


def _matrices(kernel: Array, strides: tuple[int, ...]) -> list[Array]:
    """The kernel [kh, kw, I, O] as matrices with O columns that go with the patches."""
    matrices = [
        kernel[down * strides[0] :, right * strides[1] :][:height, :width].reshape(
            -1, kernel.shape[3]
        )
        for (down, height), (right, width) in _blocks(kernel.shape[:2], strides)
    ]
    return matrices if _wide(strides, kernel.shape[2]) else [jnp.concatenate(matrices)]


def _blocks(window: tuple[int, ...], strides: tuple[int, ...]):
    """Cuts a window into blocks of at most stride x stride, each axis as (place, length)."""
    return product(
        *[
            [(place, min(s, k - s * place)) for place in range(-(-k // s))]
            for k, s in zip(window, strides, strict=True)
        ]
    )


def _wide(strides: tuple[int, ...], channels: int) -> bool:
    return strides[0] * strides[1] * channels >= _NARROW


def _product(a: Array, b: Array) -> Array:
    """The product of a [n, k] and b [k, m], for an n far larger than k and m."""
    # The gradient for b is a sum over n, which XLA's CPU product takes twice as long for if the
    # result has more rows than columns. So the wider of b and its transpose is the operand, and the
    # barrier keeps XLA from turning its gradient round again.
    if b.shape[0] <= b.shape[1]:
        return a @ lax.optimization_barrier(b)
    return lax.dot_general(a, lax.optimization_barrier(b.T), (((1,), (1,)), ((), ())))


def _total(parts: list[Array]) -> Array:
    return sum(parts[1:], start=parts[0])


def _fitting(x: Array, kernel: Array) -> None:
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            "x must be [B, H, W, I] and kernel [kh, kw, I, O], got shapes "
            f"{x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"kernel must have the images' dtype {x.dtype}, got {kernel.dtype}")


def _pair(stride: Stride) -> tuple[int, int]:
    pair = stride if isinstance(stride, tuple) else (stride, stride)
    if len(pair) != 2:
        raise ValueError(f"stride must be one number or two, got {stride!r}")
    return checks.positive_integer("stride", pair[0]), checks.positive_integer("stride", pair[1])


def _two_pairs(padding: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    pads = tuple(tuple(pad) for pad in padding)
    if len(pads) != 2 or any(len(pad) != 2 for pad in pads):
        raise ValueError(f"padding must be ((top, bottom), (left, right)), got {padding!r}")
    return tuple((int(low), int(high)) for low, high in pads)


def _same_transposed(k: int, s: int) -> tuple[int, int]:
    """The zeros for an output of exactly s times the size, placed as `lax.conv_transpose` does."""
    total = k + s - 2
    low = k - 1 if s > k - 1 else -(-total // 2)
    return low, total - low


def _valid_transposed(k: int, s: int) -> tuple[int, int]:
    return k - 1, k - 1 + max(s - k, 0)
