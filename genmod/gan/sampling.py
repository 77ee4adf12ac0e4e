"""Better samples of a trained GAN, by its latents or by its discriminator.

`truncated` draws likelier latents. The other functions use the discriminator's logit d(x) as an
estimate of a log ratio of densities. That of the best discriminator for a given generator is

    d(x) = log p_data(x) - log p_generator(x),

if it was trained by the losses `minimax` or `nonsaturating`, on as many real as generated images.
The outputs of other losses have no such meaning. Rejection sampling and Langevin dynamics with this
logit draw from p_data itself; with a discriminator that is not the best one, both are heuristics.

The parameters are those of one trained GAN in which no example depends on the others: its generator
has standing statistics (`params = model.standing(key, params)`), and its discriminator neither
normalises over its batch nor judges packs. All else is refused. A condition c has one entry per
key, as that of `Gan.generate`; each image keeps its own.

`vae.interpolate` makes paths between latents of a GAN too.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.gan.model import Gan, GanParams, LatentPrior, truncated_latent
from genmod.types import Array, Keys

_EPSILON = 1e-8
"""The number epsilon of Azadi et al., for numerical stability."""


def truncated(model: Gan, *, limit: float) -> Gan:
    """Returns a GAN whose latents are truncated (the truncation trick).

    Its latents are those of `truncated_latent`. A lower limit gives more typical, less varied
    images; parameters and training are those of the model. Its `standing` takes its statistics from
    truncated latents, so call it for each limit.

    Args:
      model: GAN with the latents N(0, I), with or without a condition.
      limit: largest absolute value of a component of z, positive.

    Returns:
      A Gan that differs in `latent` and `standing` alone.

    Raises:
      ValueError: if limit is not positive, or the model's latents are not `normal_latent`.

    References:
      Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019
      (arXiv:1809.11096), section 3.1.

    Examples:
      >>> from genmod import gan, nets, rng
      >>> model = gan.make(nets.mlp((8,), (6, 6, 1)), nets.mlp((8,), 1), latent_dim=2)
      >>> z = gan.truncated(model, limit=0.5).latent(rng.per_example(rng.root(0), 5))
      >>> z.shape, bool(abs(z).max() <= 0.5)
      ((5, 2), True)
    """
    checks.positive("limit", limit)
    if not getattr(model.latent, "is_standard_normal", False):
        raise ValueError(
            "the model's latent must be normal_latent to be truncated, got "
            f"{checks.described(model.latent)} of another distribution"
        )
    z = jax.eval_shape(lambda: model.latent(rng.per_example(rng.root(0), 1)))
    latent = truncated_latent(z.shape[1], limit=limit)
    return model._replace(latent=latent, standing=functools.partial(model.standing, latent=latent))


class Acceptance(NamedTuple):
    """Probability with which discriminator rejection sampling accepts an image.

    With the highest logit M and the shift g it is sigma(F(d)) of the logit d, where

        F(d) = d - M - log(1 - exp(d - M - epsilon)) - g

    and epsilon = 1e-8. Without shift it is exp(d - M), the probability of rejection sampling.

    Attributes:
      highest: estimate of the highest logit that an image can have, [].
      shift: the shift g, []. A positive one accepts fewer images.
    """

    highest: Array
    shift: Array

    def probability(self, logits: Array) -> Array:
        """Returns the probability of each image by its logit, [B].

        A logit above the highest one counts as that.
        """
        return jax.nn.sigmoid(_log_odds(logits, self.highest) - self.shift)


def _log_odds(logits: Array, highest: Array) -> Array:
    below = jnp.minimum(logits.astype(checks.summed_as(logits.dtype)) - highest, 0)
    return below - jnp.log(-jnp.expm1(below - _EPSILON))


def acceptance(logits: Array | np.ndarray, *, percentile: float | None = 80.0) -> Acceptance:
    """Returns the acceptance of discriminator rejection sampling (DRS), from some draws.

    The highest logit of the draws is the estimate of the highest one of all. The shift is the given
    percentile of F without shift: that percentage of draws then has an acceptance below 1/2. It
    raises the small acceptance in high dimensions, but what is drawn is no longer p_data: images of
    high logits are accepted less often than they should be, relative to others. The article takes
    the percentile of each batch, such as the 95th for a mixture in two dimensions; here a draw
    depends on no other.

    A single highest logit serves all conditions, as an image is compared with those of its own
    condition alone: the logits are then of images of all conditions that will be drawn.

    Args:
      logits: discriminator's logits of generated images, [N], some thousands. Make these from
        other keys than the samples.
      percentile: percentage of the draws, in [0, 100]; None for rejection sampling without shift.

    Raises:
      ValueError: if logits are not finite numbers [N], or the percentile is out of range.

    References:
      Azadi et al., Discriminator Rejection Sampling, 2019 (arXiv:1810.06758).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import gan
      >>> rule = gan.acceptance(jnp.array([-2.0, -1.0, 0.0]), percentile=None)
      >>> [round(p, 3) for p in rule.probability(jnp.array([-1.0, 0.0, 5.0])).tolist()]
      [0.368, 1.0, 1.0]
    """
    if percentile is not None and not (
        checks.is_finite_number(percentile) and 0 <= percentile <= 100
    ):
        raise ValueError(f"percentile must be a number in [0, 100] or None, got {percentile!r}")
    logits = jnp.asarray(logits)
    if logits.ndim != 1 or not len(logits) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits must be floating numbers [N], one per image, got {checks.described(logits)}"
        )
    if not isinstance(logits, jax.core.Tracer):
        checks.values_within("logits", logits, (-np.inf, np.inf), "a finite number", hint=False)
    logits = logits.astype(checks.summed_as(logits.dtype))
    highest = logits.max()
    if percentile is None:
        return Acceptance(highest, jnp.zeros_like(highest))
    return Acceptance(highest, jnp.percentile(_log_odds(logits, highest), percentile))


class Accepted(NamedTuple):
    """Images drawn by discriminator rejection sampling.

    Attributes:
      images: images, [B, ...].
      z: their latents, [B, L].
      logits: their logits, [B].
      accepted: whether the image was accepted, [B]. If not, none of its key's proposals was, and
        the image is the last of them.
      proposals: number of proposals until then, [B]. The sum of `accepted` over that of `proposals`
        estimates the share of images that are accepted.
    """

    images: Array
    z: Array
    logits: Array
    accepted: Array
    proposals: Array


def rejection_sampling(
    model: Gan,
    keys: Keys,
    params: GanParams,
    acceptance: Acceptance,
    *,
    num_proposals: int = 100,
    c: Any = None,
) -> Accepted:
    """Draws images by discriminator rejection sampling (DRS).

    Each key draws images until one is accepted, with the probability of `acceptance` for its logit.
    If the logit is that of the best discriminator, `acceptance` has no shift, and no logit exceeds
    its highest one, accepted images are draws from p_data (given the condition of each).

    A key stops after `num_proposals`, and its image is then the last one, which was not accepted.
    Such an image is no draw from p_data. It is returned and told by `accepted`, as leaving it out
    in silence would favour the conditions that are accepted more often. Select with
    `images[accepted]`, or raise `num_proposals`.

    Args:
      model: the GAN.
      keys: one key per image, [B].
      params: trained parameters, with standing statistics.
      acceptance: the acceptance, from `acceptance` of the logits of other draws.
      num_proposals: largest number of images drawn by a key. All keys draw until the last of them
        has accepted, so memory is that of B images.
      c: condition of each image, a tree of arrays [B, ...]; None for none.

    Raises:
      ValueError: if there is not one key per image, num_proposals is not positive, the condition
        does not suit the model, or an example depends on others.

    References:
      Azadi et al., Discriminator Rejection Sampling, 2019 (arXiv:1810.06758), algorithm 1.

    Examples:
      >>> from genmod import gan, nets, rng
      >>> from genmod.gan.sampling import acceptance, rejection_sampling
      >>> model = gan.make(nets.mlp((8,), (6, 6, 1)), nets.mlp((8,), 1), latent_dim=2)
      >>> params = model.init(rng.root(0), jax.numpy.zeros((3, 6, 6, 1)))
      >>> images = model.generate(params, model.latent(rng.per_example(rng.root(1), 100)))
      >>> rule = acceptance(model.discriminate(params, images))
      >>> rejection_sampling(model, rng.per_example(rng.root(2), 5), params, rule).images.shape
      (5, 6, 6, 1)
    """
    checks.keys(keys)
    num_proposals = checks.positive_integer("num_proposals", num_proposals)
    _check_players(model, keys, params, c)

    def propose(index: Any) -> Accepted:
        own = rng.at_step(rng.stream(keys, "proposal"), index)
        z = model.latent(rng.stream(own, "latent"))
        images = model.generate(params, z, c)
        logits = model.discriminate(params, images, c)
        uniform = jax.vmap(jax.random.uniform)(rng.stream(own, "accept"))
        accepted = uniform < acceptance.probability(logits)
        return Accepted(images, z, logits, accepted, jnp.full(len(z), index + 1, jnp.int32))

    def unfinished(carry: tuple[Array, Accepted]) -> Array:
        index, found = carry
        return (index < num_proposals) & ~found.accepted.all()

    def body(carry: tuple[Array, Accepted]) -> tuple[Array, Accepted]:
        index, found = carry
        return index + 1, _where(found.accepted, found, propose(index))

    none = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: propose(0))
    )
    return jax.lax.while_loop(unfinished, body, (jnp.int32(0), none))[1]


def _where(which: Array, a: Any, b: Any) -> Any:
    """Returns the examples of `a` where `which` [B] is true, else those of `b`."""

    def leaf(x: Array, y: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(leaf, a, b)


class LangevinDraws(NamedTuple):
    """Images drawn by Langevin dynamics in latent space.

    Attributes:
      images: images, [B, ...].
      z: their latents, [B, L].
      acceptance: share of the steps that were not refused, [B].
    """

    images: Array
    z: Array
    acceptance: Array


class _Place(NamedTuple):
    """Latents z [B, L], log density [B] and its gradient [B, L]."""

    z: Array
    log_density: Array
    gradient: Array


def langevin(
    model: Gan,
    keys: Keys,
    params: GanParams,
    *,
    num_steps: int,
    step_size: float,
    metropolis: bool = False,
    c: Any = None,
) -> LangevinDraws:
    """Draws images by discriminator driven latent sampling (DDLS).

    Each key draws z from p(z), with `rng.stream(keys, "latent")`, and moves it by Langevin dynamics
    with the energy

        E(z) = -log p(z) - d(G(z)).

    Images of the density exp(-E(z)) are draws from p_data if d is the logit of the best
    discriminator. A step with noise n ~ N(0, I) is

        z' = z - step_size / 2 * grad E(z) + sqrt(step_size) n.

    After many steps z has nearly this density. Two errors remain: that of too few steps, and
    without `metropolis` that of their size, which vanishes with step_size. With `metropolis` each
    step is accepted or refused such that the density is exact after enough steps of any size
    (MALA). Either way a step is refused if p(z') is zero, as outside the support of uniform
    latents, or the density there is not finite.

    Args:
      model: the GAN; its latents are a `LatentPrior`, whose density is known.
      keys: one key per image, [B].
      params: trained parameters, with standing statistics.
      num_steps: number of steps.
      step_size: size of the steps, which is the variance of their noise, positive. With
        `metropolis` an acceptance near 0.57 is efficient in high dimensions.
      metropolis: whether to accept or refuse each step by the Metropolis rule.
      c: condition of each image, a tree of arrays [B, ...], the same in all steps; None for none.

    Raises:
      ValueError: if there is not one key per image, num_steps or step_size is not positive, the
        density of the latents is not known, the condition does not suit the model, or an example
        depends on others.

    References:
      Che et al., Your GAN is Secretly an Energy-based Model and You Should Use Discriminator Driven
      Latent Sampling, 2020 (arXiv:2003.06060), algorithm 1.
      Roberts & Rosenthal, Optimal Scaling of Discrete Approximations to Langevin Diffusions, 1998,
      for the Metropolis rule and its acceptance.

    Examples:
      >>> from genmod import gan, nets, rng
      >>> model = gan.make(nets.mlp((8,), (6, 6, 1)), nets.mlp((8,), 1), latent_dim=2)
      >>> params = model.init(rng.root(0), jax.numpy.zeros((3, 6, 6, 1)))
      >>> keys = rng.per_example(rng.root(1), 5)
      >>> gan.langevin(model, keys, params, num_steps=10, step_size=0.01).images.shape
      (5, 6, 6, 1)
    """
    checks.keys(keys)
    num_steps = checks.positive_integer("num_steps", num_steps)
    checks.positive("step_size", step_size)
    prior = model.latent
    if not isinstance(prior, LatentPrior):
        raise ValueError(
            "the model's latent must be a LatentPrior, whose density is known, such as "
            f"normal_latent, got {checks.described(prior)}"
        )
    _check_players(model, keys, params, c)
    scale = step_size**0.5

    def at(z: Array) -> _Place:
        def log_density(z: Array) -> Array:
            logits = model.discriminate(params, model.generate(params, z, c), c)
            return prior.log_prob(z) + logits.astype(checks.summed_as(logits.dtype))

        found, pull = jax.vjp(log_density, z)
        return _Place(z, found, pull(jnp.ones_like(found))[0])

    def step(place: _Place, index: Array) -> tuple[_Place, Array]:
        own = rng.at_step(rng.stream(keys, "step"), index)
        noise = jax.vmap(lambda key: jax.random.normal(key, place.z.shape[1:], place.z.dtype))(
            rng.stream(own, "noise")
        )
        # A step is one of the leapfrog, of length sqrt(step_size), with the noise as momentum. The
        # ratio of both directions' densities is then that of the momenta before and after.
        half = noise + 0.5 * scale * place.gradient
        proposal = at(place.z + scale * half)
        end = half + 0.5 * scale * proposal.gradient
        accept = jnp.isfinite(proposal.log_density) & jnp.isfinite(proposal.gradient).all(-1)
        if metropolis:
            kinetic = 0.5 * (jnp.square(end) - jnp.square(noise)).sum(-1)
            log_ratio = proposal.log_density - place.log_density - kinetic
            # 1 - u is never 0, so its logarithm is finite.
            uniform = 1 - jax.vmap(jax.random.uniform)(rng.stream(own, "accept"))
            accept &= jnp.log(uniform) <= log_ratio
        return _where(accept, proposal, place), accept

    start = at(prior(rng.stream(keys, "latent")))
    end, accepted = jax.lax.scan(step, start, jnp.arange(num_steps))
    return LangevinDraws(model.generate(params, end.z, c), end.z, accepted.mean(0))


def check_generator(model: Gan, keys: Keys, params: GanParams, c: Any) -> jax.ShapeDtypeStruct:
    """Returns shape and type of the images.

    A generator whose images depend on others of their batch is refused.

    Args:
      model: the GAN.
      keys: one key per image, [B].
      params: trained parameters.
      c: condition of each image.
    """
    with devices.batch_statistics() as layers:
        images = jax.eval_shape(
            lambda keys, params: model.generate(params, model.latent(keys), c), keys, params
        )
    if layers:
        raise ValueError(
            "params must be those that model.standing returns, got a generator that uses the "
            f"statistics of its batch ({', '.join(dict.fromkeys(layers))})"
        )
    return images


def _check_players(model: Gan, keys: Keys, params: GanParams, c: Any) -> None:
    """Refuses a generator or a discriminator in which an image depends on others."""
    images = check_generator(model, keys, params, c)
    with devices.batch_statistics() as layers:
        logits = jax.eval_shape(lambda params, x: model.discriminate(params, x, c), params, images)
    if layers:
        raise ValueError(
            "the discriminator must judge each image alone, got one that uses the statistics of "
            f"its batch ({', '.join(dict.fromkeys(layers))})"
        )
    if logits.shape != keys.shape:
        raise ValueError(
            "the discriminator must judge each image alone, got one that judges packs: logits "
            f"{list(logits.shape)} of {len(keys)} images"
        )
