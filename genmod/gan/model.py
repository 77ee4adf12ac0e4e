"""The generative adversarial network (GAN), as pure functions."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Batch, Condition, Key, Keys, Net, Params

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


def _unconditional(batch: Batch) -> tuple[Array, Any]:
    return batch, None


class Gan(NamedTuple):
    """Generative adversarial network, as pure functions.

    A condition c is a tree of arrays [B, ...], such as labels [B]; it is None for a GAN made
    without `condition`. It goes to each network that takes one.

    Attributes:
      init: initial parameters, `(key, batch) -> GanParams`, after a check that all shapes fit.
      generate: the generator, `(params, z [B, L], c=None) -> images [B, ...]`.
      outputs: the discriminator, `(params, x [B, ...], c=None) -> outputs`, a dict of arrays by
        name, of which `logit` are the logits [B]; [B / num] if it judges packs of `num`.
      latent: one draw per key, `keys [B] -> z [B, L]`.
      standing: function `(key, params, conditions=None, *, latent) -> params` that fixes the
        generator's batch-norm statistics for sampling. These standing statistics come from a
        thousand draws (16 batches of the network's `standing_size`, which is 64 by default) of
        `latent`, which is the model's own unless another is given. Those of a generator that
        takes a condition draw it from the examples of `conditions`, a tree [N, ...] of any N. A
        generator that does not depend on batch statistics keeps its parameters.
      check: function `batch -> None` that raises ValueError if the generator cannot reach the real
        images' values, or a network refuses the values of the condition. It needs concrete values:
        `train.run` calls it with the first batch.
      image_range: least and largest value of images, as given to `make`.
      condition: images and condition of a batch, `batch -> (x [B, ...], c)`, after a check of both;
        (batch, None) for a GAN made without `condition`.

    References:
      Goodfellow et al., Generative Adversarial Networks, 2014 (arXiv:1406.2661).
      Mirza & Osindero, Conditional Generative Adversarial Nets, 2014 (arXiv:1411.1784).
    """

    init: Callable[[Key, Batch], GanParams]
    generate: Callable[..., Array]
    outputs: Callable[..., dict[str, Array]]
    latent: Latent
    standing: Callable[..., GanParams]
    check: Callable[[Batch], None]
    image_range: tuple[float, float] = (-math.inf, math.inf)
    condition: Condition = _unconditional

    @property
    def discriminate(self) -> Callable[..., Array]:
        """The discriminator's logits, `(params, x [B, ...], c=None) -> [B]`; see `outputs`."""
        outputs = self.outputs
        return lambda params, x, c=None: outputs(params, x, c)["logit"]


@dataclasses.dataclass(frozen=True)
class LatentPrior:
    """Distribution of latents with a known density.

    Calling it draws one latent per key, `keys [B] -> z [B, L]`.

    Attributes:
      draw: one latent, `key -> z [L]`.
      log_prob: log p(z) in nats, `z [B, L] -> [B]`; minus infinity outside the support.
      is_standard_normal: whether p(z) is N(0, I).
    """

    draw: Callable[[Key], Array]
    log_prob: Callable[[Array], Array]
    is_standard_normal: bool = False

    def __call__(self, keys: Keys) -> Array:
        """Returns one latent per key, [B, L]."""
        checks.keys(keys)
        return jax.vmap(self.draw)(keys)


def normal_latent(latent_dim: int) -> LatentPrior:
    """Returns a sampler of latents z ~ N(0, I)."""

    def draw(key: Key) -> Array:
        return jax.random.normal(key, (latent_dim,))

    return LatentPrior(draw, _log_normal, is_standard_normal=True)


def truncated_latent(latent_dim: int, *, limit: float) -> LatentPrior:
    """Returns a sampler of latents from N(0, I) whose components are bounded.

    A component beyond the limit is drawn again until it lies within. Its density is

        exp(-z^2 / 2) / (sqrt(2 pi) erf(limit / sqrt(2))),    |z| <= limit.

    The draw inverts this distribution in one step. A limit above 5.4 changes next to nothing.

    Args:
      latent_dim: number of latent dimensions L.
      limit: largest absolute value of a component, positive.

    Raises:
      ValueError: if latent_dim or limit is not positive.

    References:
      Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019
      (arXiv:1809.11096), section 3.1.
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    checks.positive("limit", limit)
    # Beyond this bound the distribution function is 1 in float32. The inverse is infinite there, so
    # that a draw could be the limit itself, however large.
    bound = min(float(limit), 5.4)
    log_inside = math.log(math.erf(limit / math.sqrt(2)))

    def draw(key: Key) -> Array:
        return jax.random.truncated_normal(key, -bound, bound, (latent_dim,))

    def log_prob(z: Array) -> Array:
        inside = jnp.all(jnp.abs(z) <= limit, axis=-1)
        return jnp.where(inside, _log_normal(z) - latent_dim * log_inside, -jnp.inf)

    return LatentPrior(draw, log_prob)


def uniform_latent(latent_dim: int) -> LatentPrior:
    """Returns a sampler of latents, uniform in [-1, 1)."""

    def draw(key: Key) -> Array:
        return jax.random.uniform(key, (latent_dim,), minval=-1.0, maxval=1.0)

    def log_prob(z: Array) -> Array:
        inside = jnp.all(jnp.abs(z) <= 1, axis=-1)
        return jnp.where(inside, -latent_dim * math.log(2), -jnp.inf)

    return LatentPrior(draw, log_prob)


def _log_normal(z: Array) -> Array:
    z = z.astype(checks.summed_as(z.dtype))
    return -0.5 * (jnp.square(z) + math.log(2 * math.pi)).sum(-1)


def make(
    generator: Net,
    discriminator: Net,
    *,
    latent_dim: int,
    latent: Callable[[int], Latent] = normal_latent,
    image_range: tuple[float, float] = (-math.inf, math.inf),
    condition: Condition | None = None,
) -> Gan:
    """Makes a GAN from two networks.

    Args:
      generator: network from latents [B, latent_dim] to images [B, ...].
      discriminator: network from images [B, ...] to logits, [B] or [B, 1]; one logit per pack if it
        is `packed`. With several outputs, such as those of `nets.heads`, it returns a dict, in
        which `logit` are the logits.
      latent_dim: number of latent dimensions L.
      latent: the latents' distribution, such as `normal_latent` or `uniform_latent`: a function of
        latent_dim that returns a `LatentPrior`, or any function `keys [B] -> z [B, L]`.
      image_range: least and largest value that the generator can output, such as (-1, 1) for tanh.
        Real images outside it are refused: a discriminator would know them by their range alone. If
        the range has negative values and real images have none, such as those in [0, 1], a warning
        says so.
      condition: function `batch -> (x, c)` that returns the images of a batch and the condition c,
        a tree of arrays [B, ...]. It makes the GAN conditional, such as
        `lambda batch: (batch["image"], batch["label"])` with networks of `nets.conditional`. None
        for batches that are the images.

    Raises:
      ValueError: if latent_dim is not positive, image_range is empty, or `condition` is given but
        no network takes one, or missing but one needs it; when called, if the batch is not as
        above, the latents have another width, a condition is missing, not expected or not of B
        examples, a network's output does not have the shape above, the generator uses batch
        statistics but has no `standing`, or real images lie outside image_range.

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
    networks = {"generator": generator, "discriminator": discriminator}
    checks.networks(networks, condition)
    draw = latent(latent_dim)

    def split(batch: Batch) -> tuple[Array, Any]:
        return checks.images_and_condition(batch, condition, maker="gan.make")

    def accept(name: str, c: Any, size: int | None, *, argument: str = "c") -> None:
        conditional = condition is not None
        networks[name].check_condition(name, c, size, conditional=conditional, argument=argument)

    def init(key: Key, batch: Batch) -> GanParams:
        return initial(key, *split(batch))

    def initial(key: Key, x: Array, c: Any) -> GanParams:
        accept("generator", c, len(x))
        accept("discriminator", c, len(x))
        z = jnp.zeros((len(x), latent_dim))
        with devices.batch_statistics() as layers:
            own = generator.initial(rng.stream(key, "generator"), z, c)
            # The lambda is new, so that JAX traces the generator and does not remember its shape.
            made = jax.eval_shape(lambda own: generator(own, z, c), own)
        if layers and generator.standing is None:
            raise ValueError(
                "the generator must have a standing, got None though it uses the statistics of its "
                f"batch ({', '.join(dict.fromkeys(layers))}): each sample would depend on the "
                "others. nets.wrapped changes input or output of a Net and keeps its standing"
            )
        if made.shape != x.shape:
            raise ValueError(
                f"the generator must return images of the data's shape {list(x.shape)}, "
                f"got {list(made.shape)}"
            )
        judge = discriminator.initial(rng.stream(key, "discriminator"), x, c)
        params = GanParams(generator=own, discriminator=judge)
        jax.eval_shape(outputs, params, x, c)
        # A generator that does not support `standing` must raise its error before training.
        jax.eval_shape(standing, key, params, c)
        return params

    def generate(params: GanParams, z: Array, c: Any = None) -> Array:
        if z.ndim != 2 or z.shape[1] != latent_dim:
            raise ValueError(f"z must have the shape [B, {latent_dim}], got {list(z.shape)}")
        accept("generator", c, len(z))
        return generator(params.generator, z, c)

    def outputs(params: GanParams, x: Array, c: Any = None) -> dict[str, Array]:
        accept("discriminator", c, len(x))
        found = discriminator(params.discriminator, x, c)
        by_name = found if isinstance(found, dict) else {"logit": found}
        if "logit" not in by_name:
            raise ValueError(
                "a discriminator of several outputs must have the output 'logit', got "
                f"{sorted(by_name)}"
            )
        return {**by_name, "logit": _one_per_example(by_name["logit"], x)}

    def standing(
        key: Key, params: GanParams, conditions: Any = None, *, latent: Latent = draw
    ) -> GanParams:
        if generator.standing is None:
            return params
        batches = (_STANDING_BATCHES, generator.standing_size)
        z = latent(rng.per_example(key, math.prod(batches))).reshape(*batches, latent_dim)
        accept("generator", conditions, None, argument="conditions")
        if conditions is None or not generator.takes_condition:
            return params._replace(generator=generator.standing(params.generator, z))
        num = len(jax.tree.leaves(conditions)[0])
        index = jax.random.randint(rng.stream(key, "condition"), batches, 0, num)
        c = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], conditions)
        return params._replace(generator=generator.standing(params.generator, z, c))

    def check(batch: Batch) -> None:
        images, c = split(batch)
        _check_range(images, low, high)
        if c is not None:
            # A step sees traced values; here a network can refuse those of the condition.
            jax.eval_shape(lambda key: initial(key, images, c), rng.root(0))

    return Gan(init, generate, outputs, draw, standing, check, (low, high), split)


def _one_per_example(logits: Array, x: Array) -> Array:
    """Returns logits [B] or [B, 1] as [B], and refuses others."""
    found = logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
    if found.ndim != 1 or not len(found) or len(x) % len(found):
        raise ValueError(
            "the discriminator must return logits [B] or [B, 1] for images "
            f"{list(x.shape)}, or one for each pack of equally many, got {list(logits.shape)}"
        )
    return found


def _check_range(images: Array, low: float, high: float) -> None:
    """Refuses images outside [low, high].

    It warns of images that seem to be scaled to another range.
    """
    checks.values_within("images", images, (low, high), "the generator")
    least = float(np.min(images))
    if low < 0 <= least and math.isfinite(high):
        warnings.warn(
            f"no value of the first batch's images is below {least:g}, though the generator's "
            f"range is [{low:g}, {high:g}]: are they scaled to another range? "
            "prepare=data.signed_unit_interval makes [-1, 1] of uint8 images",
            stacklevel=3,
        )


def packed(discriminator: Net, num: int) -> Net:
    """Returns a discriminator that judges `num` examples together (PacGAN).

    Consecutive examples of the batch form a pack, concatenated along the last axis: [B, H, W, C]
    becomes [B / num, H, W, num * C], and [B, D] becomes [B / num, num * D]. The logits are
    [B / num]. A lack of variety in the batch is then visible within a single pack. A part of a
    batch, such as a microbatch, forms packs of its own examples.

    If the discriminator takes a condition, it gets those of each pack on an axis of their own:
    [B, ...] becomes [B / num, num, ...].

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
    if num == 1:
        return discriminator

    def grouped(x: Array) -> Array:
        if len(x) % num:
            raise ValueError(f"a batch of {len(x)} cannot be cut into packs of {num}")
        return x.reshape(len(x) // num, num, *x.shape[1:])

    def pack(x: Array) -> Array:
        packs = jnp.moveaxis(grouped(x), 1, -2)
        return packs.reshape(*packs.shape[:-2], -1)

    def of_packs(function: Callable[..., Any], batches: bool = False) -> Callable[..., Any]:
        """Returns a function of examples; with `batches`, of several batches of examples."""
        each = jax.vmap if batches else lambda function: function

        # The signature of the inner function says whether the network takes a condition.
        @functools.wraps(function)
        def of_examples(first: Any, x: Array, *condition: Any) -> Any:
            return function(first, each(pack)(x), *jax.tree.map(each(grouped), condition))

        return of_examples

    standing = discriminator.standing
    return Net(
        init=of_packs(discriminator.init),
        apply=of_packs(discriminator.apply),
        standing=standing and of_packs(standing, batches=True),
        standing_size=discriminator.standing_size * num,
    )
