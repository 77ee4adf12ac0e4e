"""The residual generator and discriminator of R3GAN, which have no normalisation.

    cell:  x -> x + conv1x1(a(conv3x3(a(conv1x1(x)))))

The inner convolutions have more channels than the images, the one of 3 x 3 in groups. a is a leaky
ReLU after a bias. The last convolution starts at zero and the others with weights that shrink with
the number of cells (fix-up initialisation), so that deep networks train without normalisation.

References:
  Huang et al., The GAN is dead; long live the GAN! A Modern GAN Baseline, 2024 (arXiv:2501.05441),
  section 3, configuration E; code https://github.com/brownvc/R3GAN.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets.convert import from_linen
from genmod.nets.convolution import conv_grouped
from genmod.nets.heads import Embedding
from genmod.nets.initial import Initializer, normal
from genmod.nets.resampling import enlarged, reduced
from genmod.nets.residual import check_images
from genmod.nets.sngan import first_images
from genmod.types import Array, Net

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))
"""Factor of the weights before a leaky ReLU that keeps the variance."""
_LAYERS = 3
"""Convolutions of a cell."""


def r3gan_generator(
    shape: Sequence[int],
    *,
    widths: Sequence[int],
    cells: int = 2,
    expansion: int = 2,
    group_width: int = 16,
    classes: int | None = None,
    output: Callable[[Array], Array] | None = None,
) -> Net:
    """Makes R3GAN's generator, from latents to images.

    Learned images [h, w, widths[0]], with h and w from 4 to 7, are scaled channel by channel by a
    linear function of the latents z [B, L]. Each stage has residual cells. Between two stages there
    are a linear function of the channels, if their number changes, and the smooth `enlarged`. The
    last layer is linear from the channels to C.

    Args:
      shape: shape of an image, (H, W, C); H and W must be a number from 4 to 7 times the same power
        of 2.
      widths: number of channels of each stage, from the smallest images on: one more than the
        doublings, so three for 28 pixels and four for 32. The paper has (768, 768, 768, 768).
      cells: number of residual cells in a stage.
      expansion: channels inside of a cell, as a multiple of those of its images.
      group_width: channels of a group of the grouped convolutions, which divides those inside of a
        cell.
      classes: number of classes, for a conditional generator: a linear embedding of the class, as
        wide as the latents, goes beside them. None for one without a condition.
      output: elementwise function of the images; None, as in the paper, leaves them linear.

    Returns:
      A Net whose parameters are {"basis", "latent", "stage_0_cell_0", ..., "output"}. With
      `classes` it has a condition: labels [B].

    Raises:
      ValueError: if the shape or the widths are not as above, or a number is not positive; when
        called, if latents are not [B, L], or labels not whole numbers in [0, classes).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.r3gan_generator((8, 8, 3), widths=(8, 4), group_width=4)
      >>> z = jnp.zeros((3, 5))
      >>> net.apply(net.init(rng.root(0), z), z).shape
      (3, 8, 8, 3)
    """
    height, breadth, _, channels = first_images(shape, widths)
    cell = _cell(widths, cells, expansion, group_width)
    _check_classes(classes)

    def images(z: Array, c: Any) -> Array:
        if z.ndim != 2:
            raise ValueError(f"latents must be [B, L], got shape {z.shape}")
        if classes is not None:
            own = Embedding(classes, z.shape[1], _by_fan_in(1.0), name="embedding")(z, c)
            z = jnp.concatenate([z, own], axis=1)
        basis = _Basis((height, breadth, widths[0]), name="basis")()
        x = basis[None] * _linear(widths[0], "latent")(z)[:, None, None]
        for stage, width in enumerate(widths):
            if stage:
                if width != x.shape[-1]:
                    x = _linear(width, f"stage_{stage}_channels")(x)
                x = enlarged(x, kind="smooth")
            for index in range(cells):
                x = cell(name=f"stage_{stage}_cell_{index}")(x)
        x = _linear(channels, "output")(x)
        return x if output is None else output(x)

    class R3ganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array) -> Array:
            return images(z, None)

    class ConditionalR3ganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array, c: Any) -> Array:
            return images(z, c)

    return from_linen(R3ganGenerator() if classes is None else ConditionalR3ganGenerator())


def r3gan_discriminator(
    *,
    widths: Sequence[int],
    cells: int = 2,
    expansion: int = 2,
    group_width: int = 16,
    classes: int | None = None,
) -> Net:
    """Makes R3GAN's discriminator, from images to logits.

    It is the mirror of `r3gan_generator`: between two stages, images [B, H, W, C] are halved by the
    smooth `reduced`. At last they become a vector, by a learned weight for each pixel and channel,
    and this a logit by a linear function.

    Args:
      widths: number of channels of each stage, from the smallest images on, in the order of the
        generator's.
      cells: number of residual cells in a stage.
      expansion: channels inside of a cell, as a multiple of those of its images.
      group_width: channels of a group of the grouped convolutions.
      classes: number of classes, for a discriminator of images and labels: the logit is then the
        product of a vector and a linear embedding of the class. None for one without a condition.

    Returns:
      A Net with logits [B]; with `classes` it has a condition: labels [B]. Its parameters are
      {"input", "stage_0_cell_0", ..., "pixels", "output"}, stages in the order of `widths`.

    Raises:
      ValueError: if a number is not positive, or group_width does not divide the channels; when
        called, if images are not [B, H, W, C], cannot be halved so often, or labels are not whole
        numbers in [0, classes).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.r3gan_discriminator(widths=(8, 4), group_width=4)
      >>> x = jnp.zeros((3, 8, 8, 3))
      >>> net.apply(net.init(rng.root(0), x), x).shape
      (3,)
    """
    cell = _cell(widths, cells, expansion, group_width)
    _check_classes(classes)
    halvings = len(widths) - 1

    def logits(x: Array, c: Any) -> Array:
        check_images(x)
        if x.shape[1] % 2**halvings or x.shape[2] % 2**halvings:
            raise ValueError(
                f"images must have a height and a width divisible by {2**halvings} to be halved "
                f"{halvings} times, got shape {x.shape}"
            )
        x = _linear(widths[-1], "input")(x)
        for stage in reversed(range(len(widths))):
            for index in range(cells):
                x = cell(name=f"stage_{stage}_cell_{index}")(x)
            if stage:
                x = reduced(x, kind="smooth")
                if widths[stage - 1] != x.shape[-1]:
                    x = _linear(widths[stage - 1], f"stage_{stage}_channels")(x)
        h = _Pixels(name="pixels")(x)
        if classes is None:
            return _linear(1, "output")(h)[:, 0]
        initial = _by_fan_in(1 / math.sqrt(widths[0]))
        own = Embedding(classes, widths[0], initial, name="embedding")(x, c)
        return jnp.sum(_linear(widths[0], "output")(h) * own, axis=1)

    class R3ganDiscriminator(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            return logits(x, None)

    class ConditionalR3ganDiscriminator(linen.Module):
        @linen.compact
        def __call__(self, x: Array, c: Any) -> Array:
            return logits(x, c)

    return from_linen(R3ganDiscriminator() if classes is None else ConditionalR3ganDiscriminator())


def _by_fan_in(gain: float) -> Initializer:
    """Returns the initializer of N(0, gain^2 / fan-in) weights."""
    return Initializer("normal", lambda shape: gain / math.sqrt(math.prod(shape[:-1])))


def _linear(units: int, name: str) -> linen.Dense:
    return linen.Dense(units, use_bias=False, kernel_init=_by_fan_in(1.0), name=name)


class _Basis(linen.Module):
    """Learned images [h, w, C], by which a generator begins."""

    shape: tuple[int, int, int]

    @linen.compact
    def __call__(self) -> Array:
        return self.param("basis", normal(1.0), self.shape)


class _Pixels(linen.Module):
    """Sum over the pixels of each channel, [B, h, w, C] -> [B, C], with learned weights."""

    @linen.compact
    def __call__(self, x: Array) -> Array:
        height, width, channels = x.shape[1:]
        # A kernel of each channel: its fan-in is the number of pixels.
        by_pixel = Initializer("normal", lambda shape: 1 / math.sqrt(shape[0] * shape[1]))
        weights = self.param("weights", by_pixel, (height, width, channels))
        return jnp.sum(x * weights[None], axis=(1, 2))


class _Cell(linen.Module):
    """Residual cell of images [B, H, W, C], which keeps their shape."""

    expansion: int
    group_width: int
    gain: float

    @linen.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1] * self.expansion
        initial = _by_fan_in(self.gain)

        def active(h: Array, name: str) -> Array:
            bias = self.param(name, linen.initializers.zeros, (width,))
            return jax.nn.leaky_relu(h + bias.reshape(1, 1, 1, -1), _SLOPE)

        wide = linen.Dense(width, use_bias=False, kernel_init=initial, name="wide")
        h = active(wide(x), "bias_0")
        kernel = self.param("kernel", initial, (3, 3, self.group_width, width))
        h = active(conv_grouped(h, kernel, groups=width // self.group_width), "bias_1")
        zeros = linen.initializers.zeros
        return x + linen.Dense(x.shape[-1], use_bias=False, kernel_init=zeros, name="narrow")(h)


def _cell(
    widths: Sequence[int], cells: int, expansion: int, group_width: int
) -> Callable[..., _Cell]:
    """Returns the maker of the cells, after a check of its arguments."""
    if not widths:
        raise ValueError("widths must hold at least one number, got none")
    numbers = {"cells": cells, "expansion": expansion, "group_width": group_width}
    for name, value in numbers.items():
        checks.positive_integer(name, value)
    for width in widths:
        if checks.positive_integer("width", width) * expansion % group_width:
            raise ValueError(
                f"group_width must divide the {width * expansion} channels inside of a cell, got "
                f"{group_width}"
            )
    total = cells * len(widths)
    gain = _GAIN * total ** (-1 / (2 * _LAYERS - 2))

    def make(name: str) -> _Cell:
        return _Cell(expansion, group_width, gain, name=name)

    return make


def _check_classes(classes: int | None) -> None:
    if classes is not None:
        checks.positive_integer("classes", classes)
