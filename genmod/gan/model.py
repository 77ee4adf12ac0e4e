"""The generative adversarial network (GAN), as pure functions."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Key, Keys, Net, Params

Latent = Callable[[Keys], Array]

_STANDING_BATCHES = 16


class GanParams(NamedTuple):
    """Parameters of both players.

    Attributes:
      generator: parameters of the generator's network.
      discriminator: parameters of the discriminator's network.
    """

    generator: Params
    discriminator: Params


class Gan(NamedTuple):
    """Generative adversarial network, as pure functions.

    Attributes:
      init: initial parameters, `(key, x [B, ...]) -> GanParams`, after a check that all shapes fit.
      generate: the generator, `(params, z [B, L]) -> images [B, ...]`.
      discriminate: the discriminator, `(params, x [B, ...]) -> logits [B]`; logits [B / num] if it
        judges packs of `num`.
      latent: one draw per key, `keys [B] -> z [B, L]`.
      standing: function `(key, params) -> params` that fixes the generator's batch-norm statistics
        for sampling. These standing statistics come from a thousand draws (16 batches of the
        network's `standing_size`, which is 64 for a network without classes). A generator that does
        not depend on batch statistics keeps its parameters.
      check: function `images [B, ...] -> None` that raises ValueError if the generator cannot reach
        the real images' values. It needs concrete values: `train.run` calls it with the first
        batch.
      image_range: least and largest value of images, as given to `make`.

    References:
      Goodfellow et al., Generative Adversarial Networks, 2014 (arXiv:1406.2661).
    """

    init: Callable[[Key, Array], GanParams]
    generate: Callable[[GanParams, Array], Array]
    discriminate: Callable[[GanParams, Array], Array]
    latent: Latent
    standing: Callable[[Key, GanParams], GanParams]
    check: Callable[[Array], None]
    image_range: tuple[float, float] = (-math.inf, math.inf)


def normal_latent(latent_dim: int) -> Latent:
    """Returns a sampler of latents z ~ N(0, I)."""
    return _per_key(lambda key: jax.random.normal(key, (latent_dim,)))


def uniform_latent(latent_dim: int) -> Latent:
    """Returns a sampler of latents, uniform in [-1, 1)."""

    def draw(key: Key) -> Array:
        return jax.random.uniform(key, (latent_dim,), minval=-1.0, maxval=1.0)

    return _per_key(draw)


def _per_key(draw: Callable[[Key], Array]) -> Latent:
    def latents(keys: Keys) -> Array:
        checks.keys(keys)
        return jax.vmap(draw)(keys)

    return latents


def make(
    generator: Net,
    discriminator: Net,
    *,
    latent_dim: int,
    latent: Callable[[int], Latent] = normal_latent,
    image_range: tuple[float, float] = (-math.inf, math.inf),
) -> Gan:
    """Makes a GAN from two networks.

    Args:
      generator: network from latents [B, latent_dim] to images [B, ...].
      discriminator: network from images [B, ...] to logits, [B] or [B, 1]; one logit per pack if it
        is `packed`.
      latent_dim: number of latent dimensions L.
      latent: the latents' distribution, `normal_latent` or `uniform_latent`.
      image_range: least and largest value that the generator can output, such as (-1, 1) for tanh.
        Real images outside it are refused: a discriminator would know them by their range alone. If
        the range has negative values and real images have none, such as those in [0, 1], a warning
        says so.

    Raises:
      ValueError: if latent_dim is not positive or image_range is empty; when called, if the latents
        have another width, a network's output does not have the shape above, or real images lie
        outside image_range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import gan, nets, rng
      >>> model = gan.make(nets.mlp((8,), (6, 6, 1)), nets.mlp((8,), 1), latent_dim=2)
      >>> params = model.init(rng.root(0), jnp.zeros((3, 6, 6, 1)))
      >>> z = model.latent(rng.per_example(rng.root(1), 5))
      >>> images = model.generate(params, z)
      >>> images.shape, model.discriminate(params, images).shape
      ((5, 6, 6, 1), (5,))
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    low, high = image_range
    if not low < high:
        raise ValueError(f"image_range must be (low, high) with low < high, got {image_range}")
    draw = latent(latent_dim)

    def init(key: Key, x: Array) -> GanParams:
        z = jnp.zeros((x.shape[0], latent_dim))
        params = GanParams(
            generator=generator.init(rng.stream(key, "generator"), z),
            discriminator=discriminator.init(rng.stream(key, "discriminator"), x),
        )
        made = jax.eval_shape(generate, params, z)
        if made.shape != x.shape:
            raise ValueError(
                f"the generator must return images of the data's shape {list(x.shape)}, "
                f"got {list(made.shape)}"
            )
        jax.eval_shape(discriminate, params, x)
        # A generator that does not support `standing` must raise its error before training.
        jax.eval_shape(standing, key, params)
        return params

    def generate(params: GanParams, z: Array) -> Array:
        if z.ndim != 2 or z.shape[1] != latent_dim:
            raise ValueError(f"z must have the shape [B, {latent_dim}], got {list(z.shape)}")
        return generator.apply(params.generator, z)

    def discriminate(params: GanParams, x: Array) -> Array:
        logits = discriminator.apply(params.discriminator, x)
        if logits.ndim == 2 and logits.shape[1] == 1:
            return logits[:, 0]
        if logits.ndim != 1:
            raise ValueError(
                "the discriminator must return logits [B] or [B, 1] for images "
                f"{list(x.shape)}, got {list(logits.shape)}"
            )
        return logits

    def standing(key: Key, params: GanParams) -> GanParams:
        if generator.standing is None:
            return params
        z = draw(rng.per_example(key, _STANDING_BATCHES * generator.standing_size))
        z = z.reshape(_STANDING_BATCHES, generator.standing_size, latent_dim)
        return params._replace(generator=generator.standing(params.generator, z))

    def check(images: Array) -> None:
        checks.values_within("images", images, (low, high), "the generator")
        least = float(np.min(images))
        if low < 0 <= least and math.isfinite(high):
            warnings.warn(
                f"no value of the first batch's images is below {least:g}, though the generator's "
                f"range is [{low:g}, {high:g}]: are they scaled to another range? "
                "prepare=data.signed_unit_interval makes [-1, 1] of uint8 images",
                stacklevel=2,
            )

    return Gan(init, generate, discriminate, draw, standing, check, (low, high))


def packed(discriminator: Net, num: int) -> Net:
    """Returns a discriminator that judges `num` examples together (PacGAN).

    Consecutive examples of the batch form a pack, concatenated along the last axis: [B, H, W, C]
    becomes [B / num, H, W, num * C], and [B, D] becomes [B / num, num * D]. The logits are
    [B / num]. A lack of variety in the batch is then visible within a single pack.

    Args:
      discriminator: network of packs.
      num: number of examples in a pack; 1 changes nothing.

    Raises:
      ValueError: if num is not positive; when called, if it does not divide the batch.

    References:
      Lin et al., PacGAN: The Power of Two Samples in Generative Adversarial Networks, 2018
      (arXiv:1712.04086).
    """
    num = checks.positive_integer("num", num)

    def pack(x: Array) -> Array:
        if len(x) % num:
            raise ValueError(f"a batch of {len(x)} cannot be cut into packs of {num}")
        packs = jnp.moveaxis(x.reshape(len(x) // num, num, *x.shape[1:]), 1, -2)
        return packs.reshape(*packs.shape[:-2], -1)

    standing = discriminator.standing
    return Net(
        init=lambda key, x: discriminator.init(key, pack(x)),
        apply=lambda params, x: discriminator.apply(params, pack(x)),
        standing=standing and (lambda params, x: standing(params, jax.vmap(pack)(x))),
        standing_size=discriminator.standing_size * num,
    )
