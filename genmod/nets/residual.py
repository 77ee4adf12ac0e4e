"""Residual convolutional networks, of cells that add to what they get.

A cell is a bottleneck: at half the channels its convolution of 3 x 3 takes a quarter of the time.

    cell(x) = x + conv1x1(a(conv3x3(a(conv1x1(a(norm(x)))))))

The last convolution of a cell starts at zero, so that each cell begins as the identity, and deep
networks train without normalisation.

References:
  He et al., Identity Mappings in Deep Residual Networks, 2016 (arXiv:1603.05027).
  Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images, 2021
  (arXiv:2011.10650), section 4.1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets import normalization
from genmod.nets.convert import from_linen
from genmod.nets.convolution import conv, conv_transpose
from genmod.nets.initial import he_normal
from genmod.nets.mlp import WeightInit, in_parts
from genmod.types import Array, Key, Net

Activation = Callable[[Array], Array]
Resize = Literal["none", "half", "double"]
"""Names of the changes of an image's size."""
_RESIZE: dict[str, dict[str, Any]] = {
    "none": {"convolve": conv, "window": 1, "stride": 1},
    "half": {"convolve": conv},
    "double": {"convolve": conv_transpose},
}


def residual_stage(
    width: int,
    *,
    cells: int = 1,
    resize: Resize = "none",
    out: int | None = None,
    norm: str | None = None,
    groups: int | None = None,
    activation: Activation = jax.nn.silu,
    kernel_init: WeightInit = he_normal,
    output_init: WeightInit | None = None,
) -> Net:
    """Makes a convolution and residual cells, from images to images.

    It maps [B, H, W, I] to [B, h, w, O]: one convolution to `width` channels, then the cells. The
    layers of a `vae.ladder` consist of such stages.

    Args:
      width: number of channels of the cells, even.
      cells: number of residual cells.
      resize: "none" for a first convolution of 1 x 1; "half" and "double" for one of 4 x 4 with the
        stride 2, transposed to double the size.
      out: number of channels O of a last convolution of 1 x 1, after an activation; if None there
        is none, and O is `width`.
      norm: "batch", "group" or "layer" normalisation at the beginning of each cell; see
        `BatchNorm`. None for no normalisation.
      groups: number of groups of the group normalisation. If None, the most, up to 32, that have at
        least 8 channels each.
      activation: elementwise function.
      kernel_init: initializer of the weights, but for the last of each cell; biases start at zero.
      output_init: initializer of the last convolution; `kernel_init` if None.

    Returns:
      A Net whose parameters are {"first", "cell_0", ..., "output"}. It has `standing` with batch
      normalisation.

    Raises:
      ValueError: if a number is not positive, width is odd, resize or norm is unknown, or groups
        does not divide the channels; when called, if the input is not [B, H, W, I].

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.residual_stage(8, resize="half", out=6)
      >>> x = jnp.zeros((2, 14, 14, 3))
      >>> net.apply(net.init(rng.root(0), x), x).shape
      (2, 7, 7, 6)
    """
    checks.known("resize", resize, _RESIZE)
    cell = _cell([width], cells, norm, groups, activation, kernel_init)
    if out is not None:
        checks.positive_integer("out", out)

    class ResidualStage(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            check_images(x)
            first = Convolution(width, kernel_init=kernel_init, name="first", **_RESIZE[resize])
            x = first(x)
            for index in range(cells):
                x = cell(name=f"cell_{index}")(x)
            if out is None:
                return x
            initial = kernel_init if output_init is None else output_init
            last = Convolution(out, conv, initial, window=1, stride=1, name="output")
            return last(activation(x))

    return from_linen(ResidualStage(), standing=norm == "batch")


def residual_encoder(
    out: int,
    *,
    widths: Sequence[int] = (32, 64),
    cells: int = 1,
    heads: int = 1,
    norm: str | None = None,
    groups: int | None = None,
    activation: Activation = jax.nn.silu,
    kernel_init: WeightInit = he_normal,
) -> Net:
    """Makes a residual convolutional encoder, from images to vectors.

    Images [B, H, W, C] are halved once for each width, by a convolution of 4 x 4 with the stride 2
    that residual cells follow, then flattened for a dense layer to [B, out].

    Args:
      out: width of the output.
      widths: numbers of channels, one for each size of the images, even.
      cells: number of residual cells at each size.
      heads: number of equal parts of the output that count as separate layers, as for `mlp`.
      norm: normalisation of the cells, as for `residual_stage`.
      groups: number of groups of the group normalisation, as for `residual_stage`.
      activation: elementwise function.
      kernel_init: initializer of the weights, but for the last of each cell; biases start at zero.

    Returns:
      A Net whose parameters are {"half_0", "cell_0_0", ..., "output"}. It has `standing` with batch
      normalisation.

    Raises:
      ValueError: if there is no width, a number is not positive, a width is odd, `heads` does not
        divide `out`, norm is unknown, or groups does not divide the channels; when called, if the
        input is not [B, H, W, C].
    """
    widths = tuple(widths)
    cell = _cell(widths, cells, norm, groups, activation, kernel_init)
    if checks.positive_integer("out", out) % checks.positive_integer("heads", heads):
        raise ValueError(f"heads must divide the output's width {out}, got {heads}")

    class ResidualEncoder(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            check_images(x)
            for size, width in enumerate(widths):
                x = Convolution(width, conv, kernel_init, name=f"half_{size}")(x)
                for index in range(cells):
                    x = cell(name=f"cell_{size}_{index}")(x)
            x = activation(x).reshape(x.shape[0], -1)
            return linen.Dense(out, kernel_init=in_parts(kernel_init, heads), name="output")(x)

    return from_linen(ResidualEncoder(), standing=norm == "batch")


def residual_decoder(
    shape: Sequence[int],
    *,
    widths: Sequence[int] = (64, 32),
    cells: int = 1,
    output_bias: Array | None = None,
    norm: str | None = None,
    groups: int | None = None,
    activation: Activation = jax.nn.silu,
    kernel_init: WeightInit = he_normal,
) -> Net:
    """Makes a residual convolutional decoder, to images.

    With n widths, latents [B, L] pass a dense layer to images [B, H / 2^n, W / 2^n, widths[0]]. The
    images are doubled n times, by transposed convolutions of 4 x 4, the last one to C channels,
    with residual cells before each. In place of latents it also takes images of that first size,
    which then pass a convolution of 1 x 1, as in the lowest layer of a `vae.ladder`.

    Args:
      shape: shape of an image, (H, W, C); H and W must be multiples of 2^n.
      widths: numbers of channels, one for each size of the images below the last, even.
      cells: number of residual cells at each of these sizes.
      output_bias: initial bias of every pixel of the output, of shape `shape`; zeros if None.
      norm: normalisation of the cells, as for `residual_stage`.
      groups: number of groups of the group normalisation, as for `residual_stage`.
      activation: elementwise function.
      kernel_init: initializer of the weights, but for the last of each cell; biases start at zero.

    Returns:
      A Net whose parameters are {"first", "cell_0_0", ..., "double_0", ..., "bias"}. It has
      `standing` with batch normalisation.

    Raises:
      ValueError: if shape is not three positive numbers, or H or W not a multiple of 2^n, there is
        no width, a number is not positive, a width is odd, `output_bias` is not of the images'
        shape, norm is unknown, or groups does not divide the channels; when called, if the input is
        not as above.
    """
    sizes = tuple(checks.positive_integer("shape", size) for size in shape)
    widths = tuple(widths)
    cell = _cell(widths, cells, norm, groups, activation, kernel_init)
    if len(sizes) != 3 or any(size % 2 ** len(widths) for size in sizes[:2]):
        raise ValueError(
            f"shape must be (H, W, C), with H and W multiples of {2 ** len(widths)} for "
            f"{len(widths)} widths, got {sizes}"
        )
    if output_bias is not None and jnp.shape(output_bias) != sizes:
        raise ValueError(
            f"output_bias must have the images' shape {sizes}, got {jnp.shape(output_bias)}"
        )
    height, breadth = (size // 2 ** len(widths) for size in sizes[:2])

    def initial_bias(key: Key, bias_shape: Sequence[int]) -> Array:
        del key
        return jnp.zeros(bias_shape) if output_bias is None else jnp.asarray(output_bias)

    class ResidualDecoder(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            if x.ndim == 2:
                units = height * breadth * widths[0]
                x = linen.Dense(units, kernel_init=kernel_init, name="first")(x)
                x = x.reshape(-1, height, breadth, widths[0])
            elif x.ndim == 4 and x.shape[1:3] == (height, breadth):
                first = Convolution(
                    widths[0], kernel_init=kernel_init, name="first", **_RESIZE["none"]
                )
                x = first(x)
            else:
                raise ValueError(
                    f"the input must be latents [B, L] or images [B, {height}, {breadth}, I], got "
                    f"shape {x.shape}"
                )
            for size, channels in enumerate((*widths[1:], sizes[2])):
                for index in range(cells):
                    x = cell(name=f"cell_{size}_{index}")(x)
                double = Convolution(channels, conv_transpose, kernel_init, name=f"double_{size}")
                x = double(activation(x))
            return x + self.param("bias", initial_bias, sizes)[None]

    return from_linen(ResidualDecoder(), standing=norm == "batch")


class Convolution(linen.Module):
    """Layer of a convolution, such as `conv` or `conv_transpose`, with a bias.

    Attributes:
      channels: number of channels of the output.
      convolve: function of this package such as `conv`, `conv_transpose` or `conv_enlarged`.
      kernel_init: initializer of the kernel; the bias starts at zero.
      window: height and width of the kernel.
      stride: stride of the convolution.
    """

    channels: int
    convolve: Callable[..., Array]
    kernel_init: WeightInit
    window: int = 4
    stride: int = 2

    @linen.compact
    def __call__(self, x: Array) -> Array:
        """Returns the convolved images."""
        shape = (self.window, self.window, x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", linen.initializers.zeros, (self.channels,))
        return self.convolve(x, kernel, stride=self.stride) + bias.reshape(1, 1, 1, -1)


class _Cell(linen.Module):
    """Residual cell of images [B, H, W, C], which keeps their shape."""

    norm: str | None
    groups: int | None
    activation: Activation
    kernel_init: WeightInit

    @linen.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        layer = normalization.normalizer(self.norm, width, groups=self.groups, name="norm")
        layers = (
            Convolution(width // 2, conv, self.kernel_init, window=1, stride=1, name="narrow"),
            Convolution(width // 2, conv, self.kernel_init, window=3, stride=1, name="middle"),
            Convolution(width, conv, linen.initializers.zeros, window=1, stride=1, name="wide"),
        )
        h = x if layer is None else layer(x)
        for each in layers:
            h = each(self.activation(h))
        return x + h


def _cell(
    widths: Sequence[int],
    cells: int,
    norm: str | None,
    groups: int | None,
    activation: Activation,
    kernel_init: WeightInit,
) -> Callable[..., _Cell]:
    """Returns the maker of the cells, after a check of its arguments."""
    if not widths:
        raise ValueError("widths must hold at least one number, got none")
    for width in widths:
        if checks.positive_integer("width", width) % 2:
            raise ValueError(f"width must be even, as a cell halves it inside, got {width}")
    checks.positive_integer("cells", cells)
    normalization.check(norm, groups, tuple(widths))
    return functools.partial(
        _Cell, norm=norm, groups=groups, activation=activation, kernel_init=kernel_init
    )


def check_images(x: Array) -> None:
    """Refuses anything but images [B, H, W, C]."""
    if x.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C], got shape {x.shape}")
