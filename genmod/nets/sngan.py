"""The residual generator and discriminator of SNGAN.

A block adds two convolutions of 3 x 3 to a shortcut, and may double or halve its images:

    up:    x -> conv(a(norm(conv(double(a(norm(x))))))) + conv1x1(double(x))
    down:  x -> halve(conv(a(conv(a(x))))) + conv1x1(halve(x))

`double` repeats pixels (`enlarged`), `halve` averages blocks of 2 x 2 (`reduced`), and a is the
ReLU. A resampling and the convolution beside it are computed as one (`conv_enlarged`,
`conv_averaged`).

References:
  Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
  (arXiv:1802.05957), appendix B.4.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets.convert import from_linen
from genmod.nets.convolution import conv, conv_averaged, conv_enlarged
from genmod.nets.heads import linear_judge, projection
from genmod.nets.initial import glorot_uniform
from genmod.nets.mlp import WeightInit
from genmod.nets.normalization import BatchNorm, ConditionalBatchNorm
from genmod.nets.resampling import enlarged, reduced
from genmod.nets.residual import Convolution, check_images
from genmod.nets.spectral import spectral as normalised
from genmod.types import Array, Net

_LEAST, _MOST = 4, 7
"""Least and largest size of the first images of a generator."""
_SMALL = 8
"""Size of images that the discriminator does not halve any more."""


def sngan_generator(
    shape: Sequence[int],
    *,
    width: int = 256,
    classes: int | None = None,
    output: Callable[[Array], Array] | None = jnp.tanh,
    kernel_init: WeightInit = glorot_uniform,
) -> Net:
    """Makes SNGAN's residual generator, from latents to images.

    Latents z [B, L] pass a dense layer to [B, h, w, width], with h and w from 4 to 7, then residual
    blocks that double the images until they are H x W: two blocks for 28 pixels, three for 32, four
    for 64. A normalisation, a ReLU and a convolution of 3 x 3 to C channels follow. At 32 pixels
    it is the paper's network for CIFAR-10.

    Args:
      shape: shape of an image, (H, W, C); H and W must be a number from 4 to 7 times the same power
        of 2, at least 2.
      width: number of channels of all blocks; 256 in the paper.
      classes: number of classes, for a conditional generator: the blocks then have a
        `ConditionalBatchNorm`, and the last normalisation is the same for all classes. None for one
        without a condition.
      output: elementwise function of the last layer; None leaves it linear.
      kernel_init: initializer of all weights; biases start at zero.

    Returns:
      A Net whose parameters are {"first", "block_0", ..., "norm", "output"}. It has `standing`, and
      with `classes` a condition: labels [B].

    Raises:
      ValueError: if the shape is not as above, or a number is not positive; when called, if latents
        are not [B, L], or labels not whole numbers in [0, classes).

    References:
      Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
      (arXiv:1802.05957), table 4.
      Miyato & Koyama, cGANs with Projection Discriminator, 2018 (arXiv:1802.05637).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.sngan_generator((28, 28, 1), width=2, classes=10)
      >>> z, labels = jnp.zeros((3, 4)), jnp.array([7, 0, 7])
      >>> net.apply(net.init(rng.root(0), z, labels), z, labels).shape
      (3, 28, 28, 1)
    """
    *first, blocks, channels = first_images(shape)
    checks.positive_integer("width", width)
    if classes is not None:
        checks.positive_integer("classes", classes)

    norm = BatchNorm if classes is None else functools.partial(ConditionalBatchNorm, classes)

    def images(z: Array, *c: Any) -> Array:
        if z.ndim != 2:
            raise ValueError(f"latents must be [B, L], got shape {z.shape}")
        units = first[0] * first[1] * width
        x = linen.Dense(units, kernel_init=kernel_init, name="first")(z)
        x = x.reshape(len(z), *first, width)
        for index in range(blocks):
            x = Up(width, norm, kernel_init, name=f"block_{index}")(x, *c)
        x = jax.nn.relu(BatchNorm(name="norm")(x))
        x = conv3(channels, kernel_init, "output")(x)
        return x if output is None else output(x)

    class SnganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array) -> Array:
            return images(z)

    class ConditionalSnganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array, c: Any) -> Array:
            return images(z, c)

    module = SnganGenerator() if classes is None else ConditionalSnganGenerator()
    return from_linen(module, standing=True)


def sngan_discriminator(
    *,
    width: int = 128,
    classes: int | None = None,
    spectral: bool = True,
    kernel_init: WeightInit = glorot_uniform,
) -> Net:
    """Makes SNGAN's residual discriminator, from images to logits.

    Images [B, H, W, C] pass residual blocks that halve them until they are at most 8 x 8, at least
    one, then two blocks that keep their size, a ReLU, the sum over all pixels, and a dense layer.
    For images of 28 or 32 pixels these are the paper's four blocks for CIFAR-10. Batches are not
    normalised.

    Args:
      width: number of channels of all blocks; 128 in the paper.
      classes: number of classes, for a discriminator of images and labels, a `projection` of its
        features. None for one without a condition.
      spectral: True normalises all weights (`nets.spectral`). `nets.power_iteration` then must
        follow each update, as `constrain` of `train.adversarial`.
      kernel_init: initializer of the weights; biases start at zero. The last layer, and the table
        of classes, always have `glorot_uniform`.

    Returns:
      A Net with logits [B], and with `classes` a condition: labels [B]. Its parameters are
      `SpectralParams`; without `spectral` they are {"features": {"block_0", ...}, "top"}.

    Raises:
      ValueError: if a number is not positive; when called, if images are not [B, H, W, C], cannot
        be halved so often, or labels are not whole numbers in [0, classes).

    References:
      Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
      (arXiv:1802.05957), table 4.
      Miyato & Koyama, cGANs with Projection Discriminator, 2018 (arXiv:1802.05637), equation 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.sngan_discriminator(width=2)
      >>> x = jnp.zeros((3, 28, 28, 1))
      >>> net.apply(net.init(rng.root(0), x), x).shape
      (3,)
    """
    checks.positive_integer("width", width)

    class SnganFeatures(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            halvings = halvings_of(x)
            for index in range(halvings + 2):
                block = Down(width, index < halvings, kernel_init, name=f"block_{index}")
                # Without its first ReLU, the first block sees all of the image.
                x = block(x, index > 0)
            return jnp.sum(jax.nn.relu(x), axis=(1, 2))

    features = from_linen(SnganFeatures())
    net = linear_judge(features) if classes is None else projection(features, classes)
    return normalised(net) if spectral else net


class Up(linen.Module):
    """Residual block that doubles images.

    Attributes:
      width: number of channels of the result.
      norm: maker of the normalisations, called with a name. They get the condition if there is one.
      kernel_init: initializer of the weights.
    """

    width: int
    norm: Callable[..., linen.Module]
    kernel_init: WeightInit

    @linen.compact
    def __call__(self, x: Array, *condition: Any) -> Array:
        """Returns images [B, 2 H, 2 W, width]."""
        h = jax.nn.relu(self.norm(name="norm_0")(x, *condition))
        h = Convolution(self.width, conv_enlarged, self.kernel_init, window=3, name="conv_0")(h)
        h = jax.nn.relu(self.norm(name="norm_1")(h, *condition))
        h = conv3(self.width, self.kernel_init, "conv_1")(h)
        # Before the pixels are repeated, a convolution of 1 x 1 has a quarter of them to see.
        return h + enlarged(_conv1(self.width, self.kernel_init, "shortcut")(x))


class Down(linen.Module):
    """Residual block that halves images, or keeps their size and their number of channels.

    Attributes:
      width: number of channels of the result.
      halve: whether images are halved.
      kernel_init: initializer of the weights.
    """

    width: int
    halve: bool
    kernel_init: WeightInit

    @linen.compact
    def __call__(self, x: Array, active: bool) -> Array:
        """Returns images of half the size; `active` is whether a ReLU comes first."""
        h = jax.nn.relu(x) if active else x
        h = jax.nn.relu(conv3(self.width, self.kernel_init, "conv_0")(h))
        if not self.halve:
            return x + conv3(self.width, self.kernel_init, "conv_1")(h)
        last = Convolution(self.width, conv_averaged, self.kernel_init, window=3, name="conv_1")
        return last(h) + _conv1(self.width, self.kernel_init, "shortcut")(reduced(x))


def conv3(channels: int, kernel_init: WeightInit, name: str) -> Convolution:
    """Returns a convolution of 3 x 3."""
    return Convolution(channels, conv, kernel_init, window=3, stride=1, name=name)


def _conv1(channels: int, kernel_init: WeightInit, name: str) -> Convolution:
    return Convolution(channels, conv, kernel_init, window=1, stride=1, name=name)


def first_images(
    shape: Sequence[int], widths: Sequence[int] | None = None
) -> tuple[int, int, int, int]:
    """Returns height and width of a generator's first images, its doublings, and the channels.

    Raises:
      ValueError: if the shape is not (H, W, C) with H and W from 4 to 7 times one power of 2, or
        there are widths, but not one for the first images and for each doubling.
    """
    sizes = tuple(shape)
    if len(sizes) != 3:
        raise ValueError(f"shape must be (H, W, C), got {sizes}")
    height, breadth, channels = (checks.positive_integer("shape", size) for size in sizes)
    blocks = 0
    while min(height, breadth) >= 2 * _LEAST and not (height % 2 or breadth % 2):
        height, breadth, blocks = height // 2, breadth // 2, blocks + 1
    if not blocks or max(height, breadth) > _MOST or min(height, breadth) < _LEAST:
        raise ValueError(
            f"shape must have a height and a width of {_LEAST} to {_MOST} times one power of 2, "
            f"such as 28, 32, 48 or 64, got {sizes}, which halves to {height} x {breadth}"
        )
    if widths is not None and len(widths) != blocks + 1:
        raise ValueError(
            f"widths must hold {blocks + 1} numbers for images of {sizes[0]} x {sizes[1]} pixels, "
            f"which are doubled {blocks} times, got {tuple(widths)}"
        )
    return height, breadth, blocks, channels


def halvings_of(x: Array) -> int:
    """Returns the number of the discriminator's blocks that halve images.

    Raises:
      ValueError: if x are not images [B, H, W, C] that can be halved so often.
    """
    check_images(x)
    height, breadth = x.shape[1:3]
    halvings = 1
    while max(height, breadth) > _SMALL * 2**halvings:
        halvings += 1
    if height % 2**halvings or breadth % 2**halvings:
        raise ValueError(
            f"images must have a height and a width divisible by {2**halvings} to be halved "
            f"{halvings} times, to at most {_SMALL} x {_SMALL}, got shape {x.shape}"
        )
    return halvings
