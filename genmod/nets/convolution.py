"""Convolutions of images that are fast on the CPU.

XLA's CPU convolutions are slow inside a compiled training loop; its matrix products are not (see
docs/performance.md). So on the CPU, a convolution here is a sum of matrix products of image patches
with the kernel, known as im2col; or, of a large layer, products of sums of pixels, of which fewer
are enough (`genmod.nets.winograd`). On other platforms it is XLA's own convolution.
`jax.lax.platform_dependent` chooses when a program is compiled. All have the same values up to
rounding, and derivatives of every order.

The patches take as much memory as the images, times kernel height x width / stride^2; sums of
pixels take up to 9/4 as much as the images, and their products as much as the output.

References:
  Chellapilla, Puri & Simard, High Performance Convolutional Neural Networks for Document
  Processing, 2006 (https://inria.hal.science/inria-00112631).
"""

import functools
from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax

from genmod import checks
from genmod.nets import winograd
from genmod.types import Array

Stride = int | tuple[int, int]
Padding = str | Sequence[tuple[int, int]]

_Pair = tuple[int, int]
_Pads = tuple[tuple[int, int], ...]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# XLA's CPU backend is faster with one product per block of so many values: see docs/performance.md.
_WIDE = 64
# With so many channels of the input for each of the output, few of them are put in patches.
_NARROW = 8


def conv(x: Array, kernel: Array, *, stride: Stride = 1, padding: Padding = "SAME") -> Array:
    """Convolves images, without flipping the kernel.

    The result is that of `jax.lax.conv_general_dilated`.

    Args:
      x: images [B, H, W, I].
      kernel: weights [kh, kw, I, O] of the same dtype.
      stride: pixels from one window to the next; one number, or (vertical, horizontal).
      padding: "SAME" for ceil(size / stride) windows per axis, "VALID" for windows that lie within
        the image, or the numbers of zeros to add, ((top, bottom), (left, right)).

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
    return _conv(x, kernel, strides, pads, out)


# Layers of equal shapes are traced and differentiated once: a residual network has many of them.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _conv(x: Array, kernel: Array, strides: _Pair, pads: _Pads, out: _Pair) -> Array:
    """Returns images of `out` windows per axis."""
    before = tuple(low for low, _ in pads)

    def products(x: Array, kernel: Array) -> Array:
        if strides == (1, 1) and _NARROW * kernel.shape[3] <= kernel.shape[2]:
            # Without a stride it is a transposed one too, whose patches are those of the output.
            return _conv_transpose(x, kernel, strides, pads, out)
        plan = winograd.plan(
            x.shape, kernel.shape, x.dtype, strides=strides, before=before, out=out
        )
        if plan is not None:
            return winograd.conv(x, kernel, plan)
        patches = _patches(x, kernel.shape[:2], strides, before, out)
        parts = map(_product, patches, _matrices(kernel, strides))
        return _total(list(parts)).reshape(x.shape[0], *out, kernel.shape[3])

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS)

    return lax.platform_dependent(x, kernel, cpu=products, default=native)


def conv_grouped(
    x: Array, kernel: Array, *, groups: int, stride: Stride = 1, padding: Padding = "SAME"
) -> Array:
    """Convolves groups of channels, each by itself.

    The result is that of `jax.lax.conv_general_dilated` with `feature_group_count`: part g of the
    output's channels is `conv` of part g of the input's. On the CPU it is that, group by group, so
    that a program grows with the number of groups.

    Args:
      x: images [B, H, W, I].
      kernel: weights [kh, kw, I / groups, O] of the same dtype.
      groups: number of groups, which divides I and O.
      stride: pixels from one window to the next, as of `conv`.
      padding: padding, as of `conv`.

    Returns:
      Images [B, h, w, O].

    Raises:
      ValueError: if groups is not positive or does not divide the channels, or `conv` refuses its
        arguments.
    """
    checks.positive_integer("groups", groups)
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] % groups or kernel.shape[3] % groups:
        raise ValueError(
            f"groups must divide the channels of x and of the kernel, got {groups} for shapes "
            f"{x.shape} and {kernel.shape}"
        )

    pads = padding if isinstance(padding, str) else _two_pairs(padding)
    return _conv_grouped(x, kernel, groups, _pair(stride), pads)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _conv_grouped(x: Array, kernel: Array, groups: int, strides: _Pair, pads: str | _Pads) -> Array:
    def by_group(x: Array, kernel: Array) -> Array:
        parts = zip(jnp.split(x, groups, axis=3), jnp.split(kernel, groups, axis=3), strict=True)
        each = [conv(*part, stride=strides, padding=pads) for part in parts]
        return jnp.concatenate(each, axis=3)

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=_DIMENSIONS, feature_group_count=groups
        )

    return lax.platform_dependent(x, kernel, cpu=by_group, default=native)


def conv_transpose(x: Array, kernel: Array, *, stride: Stride, padding: Padding = "SAME") -> Array:
    """Applies a transposed convolution to images.

    The result is that of `jax.lax.conv_transpose`, which flax's layer uses too: the images get
    `stride - 1` zeros between their pixels and are convolved, without flipping the kernel. This is
    the adjoint of the strided convolution with the flipped kernel.

    Args:
      x: images [B, h, w, I].
      kernel: weights [kh, kw, I, O] of the same dtype.
      stride: output pixels per input pixel; one number, or (vertical, horizontal).
      padding: "SAME" for an output of exactly `stride` times the size, "VALID" for every pixel that
        the input reaches, or the numbers of zeros to add around the images with zeros between their
        pixels, ((top, bottom), (left, right)).

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
    return _conv_transpose(x, kernel, strides, pads, out)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _conv_transpose(x: Array, kernel: Array, strides: _Pair, pads: _Pads, out: _Pair) -> Array:
    """Returns images of `out` pixels per axis."""
    sizes, window = x.shape[1:3], kernel.shape[:2]
    before = tuple(k - 1 - low for k, (low, _) in zip(window, pads, strict=True))

    def products(x: Array, kernel: Array) -> Array:
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        image = jax.ShapeDtypeStruct((x.shape[0], *out, kernel.shape[3]), x.dtype)
        plan = winograd.plan(
            image.shape, flipped.shape, x.dtype, strides=strides, before=before, out=sizes
        )
        if plan is not None:
            forward = functools.partial(winograd.conv, kernel=flipped, plan=plan)
            return jax.linear_transpose(forward, image)(x)[0]
        rows = x.reshape(-1, x.shape[3])
        patches = [_product(rows, matrix.T) for matrix in _matrices(flipped, strides)]
        add_up = jax.linear_transpose(
            lambda image: _patches(image, window, strides, before, sizes), image
        )
        return add_up(patches)[0]

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), pads, lhs_dilation=strides, dimension_numbers=_DIMENSIONS
        )

    return lax.platform_dependent(x, kernel, cpu=products, default=native)


def conv_enlarged(x: Array, kernel: Array, *, stride: int = 2) -> Array:
    """Convolves images that are first enlarged by repeating pixels.

    Each pixel becomes a block of stride x stride (nearest-neighbour upsampling), then `conv` with
    the padding "SAME" follows. Both are computed as one transposed convolution, whose kernel is the
    sum of the shifted kernels: with 3 x 3 and the stride 2 it takes 4/9 of the products.

    Args:
      x: images [B, h, w, I].
      kernel: weights [kh, kw, I, O] of the same dtype.
      stride: height and width of the block of each pixel.

    Returns:
      Images [B, stride h, stride w, O].

    Raises:
      ValueError: if shapes or dtypes do not fit, or stride is not positive.
    """
    _fitting(x, kernel)
    sizes = [size * checks.positive_integer("stride", stride) for size in x.shape[1:3]]
    pads = lax.padtype_to_pads(sizes, kernel.shape[:2], (1, 1), "SAME")
    around = [(stride - 1 + low, stride - 1 + high) for low, high in pads]
    return conv_transpose(x, _shifted_sum(kernel, stride), stride=stride, padding=around)


def conv_averaged(x: Array, kernel: Array, *, stride: int = 2) -> Array:
    """Convolves images, then averages blocks of pixels.

    `conv` with the padding "SAME" is followed by the mean of each block of stride x stride (average
    pooling). Both are computed as one convolution, as in `conv_enlarged`.

    Args:
      x: images [B, H, W, I], with H and W multiples of stride.
      kernel: weights [kh, kw, I, O] of the same dtype.
      stride: height and width of a block.

    Returns:
      Images [B, H / stride, W / stride, O].

    Raises:
      ValueError: if shapes or dtypes do not fit, or stride is not positive or does not divide H
        and W.
    """
    _fitting(x, kernel)
    sizes = x.shape[1:3]
    if any(size % checks.positive_integer("stride", stride) for size in sizes):
        raise ValueError(f"stride must divide the images' height and width {sizes}, got {stride}")
    pads = lax.padtype_to_pads(sizes, kernel.shape[:2], (1, 1), "SAME")
    mean = _shifted_sum(kernel, stride) / stride**2
    return conv(x, mean, stride=stride, padding=pads)


def _shifted_sum(kernel: Array, stride: int) -> Array:
    """Returns the sum of a kernel's shifted copies.

    They are shifted by 0 to stride - 1 pixels along both axes.
    """
    rest = stride - 1
    return _total(
        [
            jnp.pad(kernel, ((down, rest - down), (right, rest - right), (0, 0), (0, 0)))
            for down, right in product(range(stride), repeat=2)
        ]
    )


def _patches(
    x: Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    before: tuple[int, ...],
    out: tuple[int, ...],
) -> list[Array]:
    """Returns image patches as matrices.

    The images are x [B, H, W, C]. There is one row for each of the B * h * w windows, where (h, w)
    is `out`. The first window begins `before` pixels above and to the left of the image. The
    columns of a matrix are the pixels of one block of stride x stride in the window, as in
    `_matrices`.
    """
    batch, *sizes, channels = x.shape
    counts = [h + -(-k // s) - 1 for h, k, s in zip(out, window, strides, strict=True)]
    zeros = [
        (low, count * s - low - size, 0)
        for low, count, s, size in zip(before, counts, strides, sizes, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *zeros, (0, 0, 0)])
    # XLA's CPU backend vectorises the adjoint of slices without strides: see docs/performance.md.
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
    # XLA's CPU backend vectorises this sum, but not a concatenation: see docs/performance.md.
    width = parts[0].shape[1]
    return _total(
        [
            jnp.pad(part, ((0, 0), (width * index, width * (len(parts) - 1 - index))))
            for index, part in enumerate(parts)
        ]
    )


def _matrices(kernel: Array, strides: tuple[int, ...]) -> list[Array]:
    """Returns the kernel as matrices with O columns.

    The kernel is [kh, kw, I, O]. The matrices' rows correspond to the columns of `_patches`.
    """
    matrices = [
        kernel[down * strides[0] :, right * strides[1] :][:height, :width].reshape(
            -1, kernel.shape[3]
        )
        for (down, height), (right, width) in _blocks(kernel.shape[:2], strides)
    ]
    return matrices if _wide(strides, kernel.shape[2]) else [jnp.concatenate(matrices)]


def _blocks(window: tuple[int, ...], strides: tuple[int, ...]):
    """Splits a window into blocks.

    A block has at most stride x stride pixels. It is a pair, for the two axes, of (index of the
    block, length in pixels).
    """
    return product(
        *[
            [(index, min(s, k - s * index)) for index in range(-(-k // s))]
            for k, s in zip(window, strides, strict=True)
        ]
    )


def _wide(strides: tuple[int, ...], channels: int) -> bool:
    return strides[0] * strides[1] * channels >= _WIDE


def _product(a: Array, b: Array) -> Array:
    """Multiplies a tall matrix a [n, k] by b [k, m]."""
    # XLA's CPU backend is faster if b is wide; the barrier keeps it so: see docs/performance.md.
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
    """Returns the numbers of zeros for "SAME" padding.

    They make the output s times as large as the input, and are divided between the two sides as in
    `lax.conv_transpose`.
    """
    total = k + s - 2
    low = k - 1 if s > k - 1 else -(-total // 2)
    return low, total - low


def _valid_transposed(k: int, s: int) -> tuple[int, int]:
    return k - 1, k - 1 + max(s - k, 0)
