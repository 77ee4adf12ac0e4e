"""BigGAN's generator and discriminator, at the size of small images.

The blocks are those of `sngan`. What is new: latents that reach every block, an embedding of the
class that all blocks share, self-attention, and orthogonal initial weights.

References:
  Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019
  (arXiv:1809.11096), section 3 and appendix B.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets.attention import SelfAttention
from genmod.nets.convert import from_linen
from genmod.nets.heads import Embedding, linear_judge, projection
from genmod.nets.initial import normal, orthogonal
from genmod.nets.mlp import WeightInit
from genmod.nets.normalization import BatchNorm, ConditionalBatchNorm
from genmod.nets.residual import check_images
from genmod.nets.sngan import Down, Up, conv3, first_images
from genmod.nets.spectral import spectral as normalised
from genmod.types import Array, Net

_ORTHOGONAL = orthogonal(1.0)


def biggan_generator(
    shape: Sequence[int],
    *,
    widths: Sequence[int],
    classes: int | None = None,
    embedding_dim: int = 128,
    attention: int | None = None,
    spectral: bool = True,
    output: Callable[[Array], Array] | None = jnp.tanh,
    kernel_init: WeightInit = _ORTHOGONAL,
) -> Net:
    """Makes BigGAN's generator, from latents to images.

    Latents z [B, L] are cut into one part for the first layer and one for each block. A dense layer
    makes images [h, w, widths[0]] of the first part, with h and w from 4 to 7. Each block doubles
    them. It normalises them with a scale and a bias that are linear in its part of the latents and
    in an embedding of the class, which all blocks share.

    Args:
      shape: shape of an image, (H, W, C); H and W must be a number from 4 to 7 times the same power
        of 2, at least 2.
      widths: number of channels of the first images and after each block: three for 28 pixels, four
        for 32. In the paper they are (4, 4, 4, 4) times 64 at 32 pixels.
      classes: number of classes, for a conditional generator; None for one without a condition.
      embedding_dim: size of the shared embedding of a class.
      attention: height of the images with `SelfAttention`; None for none.
      spectral: True normalises all kernels (`nets.spectral`), but not the embedding, nor the linear
        functions of scale and bias (which the authors' code normalises). `nets.power_iteration`
        must then follow each update of the generator: `constrain` of `train.adversarial` is
        {"generator": nets.power_iteration, "discriminator": nets.power_iteration}.
      output: elementwise function of the last layer; None leaves it linear.
      kernel_init: initializer of all kernels; biases start at zero.

    Returns:
      A Net that has `standing`, and with `classes` a condition: labels [B].

    Raises:
      ValueError: if the shape or the widths are not as above, a number is not positive, or no
        images have the height `attention`; when called, if latents are not [B, L] with an L that
        the number of parts divides, or labels not whole numbers in [0, classes).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.biggan_generator((28, 28, 1), widths=(8, 8, 8), classes=10, attention=14)
      >>> z, labels = jnp.zeros((3, 6)), jnp.array([7, 0, 7])
      >>> net.apply(net.init(rng.root(0), z, labels), z, labels).shape
      (3, 28, 28, 1)
    """
    height, breadth, blocks, channels = first_images(shape, widths)
    _check(widths, classes, embedding_dim, attention, [height * 2**i for i in range(1, blocks + 1)])

    def images(z: Array, *c: Any) -> Array:
        if z.ndim != 2 or z.shape[1] % (blocks + 1):
            raise ValueError(
                f"latents must be [B, L] with L divisible by {blocks + 1}, the first layer and "
                f"{blocks} blocks, got shape {z.shape}"
            )
        first, *parts = jnp.split(z, blocks + 1, axis=1)
        embedding = None
        if classes is not None:
            embedding = Embedding(classes, embedding_dim, normal(1.0), "table", name="classes")
        shared = [] if embedding is None else [embedding(z, *c)]
        units = height * breadth * widths[0]
        x = linen.Dense(units, kernel_init=kernel_init, name="first")(first)
        x = x.reshape(len(z), height, breadth, widths[0])
        for index, part in enumerate(parts):
            given = jnp.concatenate([part, *shared], axis=1)
            block = Up(widths[index + 1], ConditionalBatchNorm, kernel_init, name=f"block_{index}")
            x = block(x, given)
            if x.shape[1] == attention:
                x = SelfAttention(kernel_init, name="attention")(x)
        x = jax.nn.relu(BatchNorm(name="norm")(x))
        x = conv3(channels, kernel_init, "output")(x)
        return x if output is None else output(x)

    class BigganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array) -> Array:
            return images(z)

    class ConditionalBigganGenerator(linen.Module):
        @linen.compact
        def __call__(self, z: Array, c: Any) -> Array:
            return images(z, c)

    module = BigganGenerator() if classes is None else ConditionalBigganGenerator()
    net = from_linen(module, standing=True)
    return normalised(net) if spectral else net


def biggan_discriminator(
    *,
    widths: Sequence[int],
    halvings: int,
    classes: int | None = None,
    attention: int | None = None,
    spectral: bool = True,
    kernel_init: WeightInit = _ORTHOGONAL,
) -> Net:
    """Makes BigGAN's discriminator, from images to logits.

    Images [B, H, W, C] pass a residual block for each of the widths. The first `halvings` blocks
    halve them, the others keep their size. A ReLU, the sum over all pixels, and a dense layer
    follow, with classes a `projection`.

    Args:
      widths: number of channels after each block: those that keep the size keep the number, too.
      halvings: number of blocks that halve images, from 1 to that of all blocks; 2 of 4 at 32
        pixels in the paper.
      classes: number of classes, for a discriminator of images and labels; None for one without a
        condition.
      attention: height of the images with `SelfAttention`, after the block that makes them; None
        for none.
      spectral: True normalises all weights (`nets.spectral`); see `biggan_generator`.
      kernel_init: initializer of the weights, but of the last layer.

    Returns:
      A Net with logits [B]; with `classes` it has a condition: labels [B].

    Raises:
      ValueError: if a number is not positive, there are more halvings than blocks, or a block that
        keeps the size changes the channels; when called, if images are not [B, H, W, C], cannot be
        halved so often, or never have the height `attention`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.biggan_discriminator(widths=(8, 8, 8), halvings=2, attention=14)
      >>> x = jnp.zeros((3, 28, 28, 1))
      >>> net.apply(net.init(rng.root(0), x), x).shape
      (3,)
    """
    _check(widths, classes, 1, None, [])
    if not 1 <= checks.positive_integer("halvings", halvings) <= len(widths):
        raise ValueError(
            f"halvings must be from 1 to {len(widths)}, the number of blocks, got {halvings}"
        )
    if len(set(widths[halvings - 1 :])) > 1:
        raise ValueError(
            "widths must be equal from the last halving on, as these blocks keep their channels, "
            f"got {tuple(widths)} with {halvings} halvings"
        )

    class BigganFeatures(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            check_images(x)
            sizes = [x.shape[1] // 2**i for i in range(1, halvings + 1)]
            if x.shape[1] % 2**halvings or x.shape[2] % 2**halvings:
                raise ValueError(
                    f"images must have a height and a width divisible by {2**halvings} to be "
                    f"halved {halvings} times, got shape {x.shape}"
                )
            _check_attention(attention, sizes)
            for index, width in enumerate(widths):
                # Without its first ReLU, the first block sees all of the image.
                block = Down(width, index < halvings, kernel_init, name=f"block_{index}")
                x = block(x, index > 0)
                if index < halvings and x.shape[1] == attention:
                    x = SelfAttention(kernel_init, name="attention")(x)
            return jnp.sum(jax.nn.relu(x), axis=(1, 2))

    features = from_linen(BigganFeatures())
    net = linear_judge(features) if classes is None else projection(features, classes)
    return normalised(net) if spectral else net


def _check(
    widths: Sequence[int],
    classes: int | None,
    embedding_dim: int,
    attention: int | None,
    sizes: Sequence[int],
) -> None:
    """Refuses numbers that do not make a network."""
    if not widths:
        raise ValueError("widths must hold at least one number, got none")
    for width in widths:
        checks.positive_integer("widths", width)
    if classes is not None:
        checks.positive_integer("classes", classes)
    checks.positive_integer("embedding_dim", embedding_dim)
    _check_attention(attention, sizes)


def _check_attention(attention: int | None, sizes: Sequence[int]) -> None:
    if attention is not None and attention not in sizes:
        raise ValueError(
            "attention must be the height of the images after a block, one of "
            f"{', '.join(map(str, sizes))}, got {attention}"
        )
