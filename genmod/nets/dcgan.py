"""The convolutional generator and discriminator of DCGAN.

Each has two layers of stride 2, for small images. As in the paper, the generator's output and the
discriminator's first layer are not normalised, and initial weights are N(0, 0.02^2).

References:
  Radford et al., Unsupervised Representation Learning with Deep Convolutional Generative
  Adversarial Networks, 2016 (arXiv:1511.06434).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets import normalization
from genmod.nets.convert import from_linen
from genmod.nets.convolution import conv, conv_transpose
from genmod.nets.initial import normal
from genmod.nets.mlp import WeightInit
from genmod.nets.residual import Convolution
from genmod.types import Array, Net

Activation = Callable[[Array], Array]

_NORMAL = normal(0.02)


def _leaky_relu(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.2)


def dcgan_generator(
    shape: Sequence[int],
    *,
    width: int = 64,
    hidden: Sequence[int] = (),
    norm: str | None = None,
    groups: int | None = None,
    activation: Activation = jax.nn.relu,
    output: Activation | None = jnp.tanh,
    kernel_init: WeightInit = _NORMAL,
) -> Net:
    """Makes DCGAN's generator, from latents to images.

    Latents z [B, L] pass a dense layer to [B, H/4, W/4, 2 width], then two transposed convolutions
    of stride 2 with 4 x 4 kernels, to `width` and to C channels.

    Args:
      shape: shape of an image, (H, W, C); H and W must be multiples of 4.
      width: number of channels before the last layer.
      hidden: units of further dense layers before the others, such as (1024,) of InfoGAN.
      norm: "batch" or "group" normalisation before each activation; see `BatchNorm`. None for no
        normalisation.
      groups: number of groups of the group normalisation. If None, the most, up to 32, that have at
        least 8 channels each.
      activation: elementwise function after each of the first two layers.
      output: elementwise function of the last layer; None leaves logits.
      kernel_init: initializer of all weights; biases start at zero.

    Returns:
      A Net whose parameters are {"hidden_0", ..., "layer_0", "layer_1", "output"} with "kernel" and
      "bias" each, and {"hidden_norm_0", ..., "norm_0", "norm_1"} with "scale" and "bias". It has
      `standing` with batch normalisation.

    Raises:
      ValueError: if the shape is not three positive numbers, H or W is not a multiple of 4, `norm`
        is unknown, or `groups` does not divide the channels.
    """
    sizes = tuple(shape)
    if len(sizes) != 3:
        raise ValueError(f"shape must be (H, W, C), got {sizes}")
    height, breadth, channels = (checks.positive_integer("shape", size) for size in sizes)
    if height % 4 or breadth % 4:
        raise ValueError(f"shape must have a height and a width divisible by 4, got {sizes}")
    checks.positive_integer("width", width)
    _check_hidden(hidden)
    normalization.check(norm, groups, (*hidden, 2 * width, width))
    dense_layers = _hidden(hidden, norm, groups, activation, kernel_init)

    class DcganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array) -> Array:
            if z.ndim != 2:
                raise ValueError(f"latents must be [B, L], got shape {z.shape}")

            def normalised(x: Array, index: int) -> Array:
                layer = normalization.normalizer(
                    norm, x.shape[-1], groups=groups, name=f"norm_{index}"
                )
                return x if layer is None else layer(x)

            z = dense_layers(z)
            first = (height // 4, breadth // 4, 2 * width)
            dense = linen.Dense(
                first[0] * first[1] * first[2], kernel_init=kernel_init, name="layer_0"
            )
            x = dense(z).reshape(z.shape[0], *first)
            x = activation(normalised(x, 0))
            x = Convolution(width, conv_transpose, kernel_init, name="layer_1")(x)
            x = activation(normalised(x, 1))
            x = Convolution(channels, conv_transpose, kernel_init, name="output")(x)
            return x if output is None else output(x)

    return from_linen(DcganGenerator(), standing=norm == "batch")


def dcgan_discriminator(
    *,
    width: int = 64,
    hidden: Sequence[int] = (),
    norm: str | None = None,
    groups: int | None = None,
    activation: Activation = _leaky_relu,
    out: int | None = None,
    kernel_init: WeightInit = _NORMAL,
) -> Net:
    """Makes DCGAN's discriminator, from images to logits.

    Images [B, H, W, C] pass two convolutions of stride 2 with 4 x 4 kernels, to `width` and to
    2 width channels, then one dense layer. With several outputs it is a classifier.

    Args:
      width: number of channels of the first layer.
      hidden: units of further dense layers before the last one, such as (1024,) of InfoGAN.
      norm: "batch" or "group" normalisation of the second layer and the hidden ones; see
        `BatchNorm`. None for no normalisation.
      groups: number of groups of the group normalisation. If None, the most, up to 32, that have at
        least 8 channels each.
      activation: elementwise function after both convolutions; by default a leaky ReLU of slope
        0.2.
      out: number of logits per image, [B, out]; None for one logit without an axis, [B].
      kernel_init: initializer of all weights; biases start at zero.

    Returns:
      A Net whose parameters are {"layer_0", "layer_1", "hidden_0", ..., "output"} with "kernel" and
      "bias" each, and {"norm_1", "hidden_norm_0", ...} with "scale" and "bias". It has `standing`
      with batch normalisation.

    Raises:
      ValueError: if a number is not positive, `norm` is unknown, or `groups` does not divide the
        channels.
    """
    checks.positive_integer("width", width)
    if out is not None:
        checks.positive_integer("out", out)
    _check_hidden(hidden)
    normalization.check(norm, groups, (*hidden, 2 * width))
    dense_layers = _hidden(hidden, norm, groups, activation, kernel_init)

    class DcganDiscriminator(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            if x.ndim != 4:
                raise ValueError(f"images must be [B, H, W, C], got shape {x.shape}")
            x = activation(Convolution(width, conv, kernel_init, name="layer_0")(x))
            x = Convolution(2 * width, conv, kernel_init, name="layer_1")(x)
            layer = normalization.normalizer(norm, 2 * width, groups=groups, name="norm_1")
            x = dense_layers(activation(x if layer is None else layer(x)).reshape(x.shape[0], -1))
            logits = linen.Dense(out or 1, kernel_init=kernel_init, name="output")(x)
            return logits[:, 0] if out is None else logits

    return from_linen(DcganDiscriminator(), standing=norm == "batch")


def _hidden(
    widths: Sequence[int],
    norm: str | None,
    groups: int | None,
    activation: Activation,
    kernel_init: WeightInit,
) -> Activation:
    """Returns dense layers, as part of the module that calls them."""

    def layers(x: Array) -> Array:
        for index, width in enumerate(widths):
            x = linen.Dense(width, kernel_init=kernel_init, name=f"hidden_{index}")(x)
            layer = normalization.normalizer(
                norm, width, groups=groups, name=f"hidden_norm_{index}"
            )
            x = activation(x if layer is None else layer(x))
        return x

    return layers


def _check_hidden(hidden: Sequence[int]) -> None:
    if not isinstance(hidden, Sequence):
        raise ValueError(f"hidden must be a tuple of widths, got {hidden!r}")
    for width in hidden:
        checks.positive_integer("hidden", width)
