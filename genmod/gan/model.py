"""The generative adversarial network, as pure functions."""

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
    """The parameters of both players.

    Attributes:
      generator: of the generator's network.
      discriminator: of the discriminator's network.
    """

    generator: Params
    discriminator: Params


class Gan(NamedTuple):
    """A generative adversarial network (Goodfellow et al. 2014).

    Attributes:
      init: `(key, x [B, ...]) -> GanParams`, after checking that all shapes fit.
      generate: `(params, z [B, L]) -> images [B, ...]`.
      discriminate: `(params, x [B, ...]) -> logits [B]`, or [B / num] where it packs by `num`.
      latent: `keys [B] -> z [B, L]`, one draw a key.
      standing: `(key, params) -> params` whose generator no longer looks at its batch: where it
        normalised over the batch, it uses the statistics of a thousand draws (16 batches of the
        network's `standing_size`, 64 if it knows no classes). Sample with these. Where nothing
        looks at the batch, the parameters come back as they are.
      check: `images [B, ...] -> None`, a refusal of real images whose values the generator cannot
        reach; to be called where values can be seen, as `train.run` does with its first batch.
    """

    init: Callable[[Key, Array], GanParams]
    generate: Callable[[GanParams, Array], Array]
    discriminate: Callable[[GanParams, Array], Array]
    latent: Latent
    standing: Callable[[Key, GanParams], GanParams]
    check: Callable[[Array], None]


def normal_latent(latent_dim: int) -> Latent:
    """Latents z ~ N(0, I)."""
    return _per_key(lambda key: jax.random.normal(key, (latent_dim,)))


def uniform_latent(latent_dim: int) -> Latent:
    """Latents uniform in [-1, 1) in each dimension."""

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
    """A GAN from two networks.

    Args:
      generator: z [B, latent_dim] -> images [B, ...].
      discriminator: images [B, ...] -> logits, [B] or [B, 1]; of packs where it is `packed`.
      latent_dim: number of latent dimensions L.
      latent: the latents' distribution, `normal_latent` or `uniform_latent`.
      image_range: least and largest value that the generator can put out, such as (-1, 1) for tanh.
        A discriminator would tell real images outside it from generated ones by that alone. A
        warning says so where real images use the half from 0 on alone, as those in [0, 1] do.

    Raises:
      ValueError: if latent_dim is not positive or image_range empty; on use, if the latents have
        another width, a network puts out another shape than the one above, or real images lie
        outside image_range.
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
                f"the generator must put out images of the data's shape {list(x.shape)}, "
                f"got {list(made.shape)}"
            )
        jax.eval_shape(discriminate, params, x)
        jax.eval_shape(standing, key, params)  # what cannot settle is found before it is trained
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
                "the discriminator must put out logits [B] or [B, 1] for images "
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

    return Gan(init, generate, discriminate, draw, standing, check)


def packed(discriminator: Net, num: int) -> Net:
    """A discriminator of packs: `num` examples are judged together (PacGAN, Lin et al. 2018).

    Consecutive examples of the batch make a pack, side by side in the last axis: [B, H, W, C]
    becomes [B / num, H, W, num * C], and [B, D] becomes [B / num, num * D]. Its logits are
    [B / num]. A batch that lacks variety then shows within a single example.

    Args:
      discriminator: the network that judges packs.
      num: examples in a pack; 1 changes nothing.

    Raises:
      ValueError: if num is not positive; on use, if it does not divide the batch.
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
