"""Densities of codes, fitted after training, to draw from in place of the prior.

Codes of real images need not lie where the prior has its mass. A decoder makes better images of
draws from a density of these codes. Each density here is a `Prior`, of which `generate` draws:

    vae.generate(model._replace(prior=density))
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Batch, Key, Keys, Params
from genmod.vae.hierarchy import LayeredDraw
from genmod.vae.model import Vae
from genmod.vae.normal import log_normal
from genmod.vae.priors import Encode, Prior

_EXACT = jax.lax.Precision.HIGHEST


class GaussianMixture(NamedTuple):
    """Mixture of K Gaussians with full covariances.

    The covariance of component k is factors[k] @ factors[k].T, so that `mixture._replace(factors=
    0.8 * mixture.factors)` has narrower components.

    Attributes:
      log_weights: logarithms of the weights, [K].
      means: means, [K, L].
      factors: Cholesky factors of the covariances, lower triangular, [K, L, L].
      log_likelihood: mean log density of the fitted codes before each step of the fit, in nats
        [num_steps]; it never falls, but for rounding.
    """

    log_weights: Array
    means: Array
    factors: Array
    log_likelihood: Array

    @property
    def prior(self) -> Prior:
        """The mixture as a prior without parameters of its own."""
        return Prior(_no_params, self._sample, self._log_prob, latent_dim=self.means.shape[1])

    def _sample(self, keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
        del params, posterior
        checks.keys(keys)

        def draw(which: Key, noise: Key) -> Array:
            k = jax.random.categorical(which, self.log_weights)
            normal = jax.random.normal(noise, self.means.shape[1:], self.means.dtype)
            return self.means[k] + jnp.matmul(self.factors[k], normal, precision=_EXACT)

        return jax.vmap(draw)(rng.stream(keys, "component"), rng.stream(keys, "noise"))

    def _log_prob(self, params: Params, z: Array, posterior: Encode | None = None) -> Array:
        del params, posterior
        if z.shape[1:] != self.means.shape[1:]:
            raise ValueError(f"z must be [B, {self.means.shape[1]}], got {list(z.shape)}")

        def of_component(mean: Array, factor: Array) -> Array:
            noise = jax.scipy.linalg.solve_triangular(factor, (z - mean[None]).T, lower=True)
            log_det = jnp.log(jnp.diagonal(factor)).sum()
            return -0.5 * (jnp.square(noise).sum(0) + len(mean) * _LOG_2_PI) - log_det

        of_each = jax.vmap(of_component)(self.means, self.factors)
        return jax.nn.logsumexp(of_each + self.log_weights[:, None], axis=0)


_LOG_2_PI = math.log(2 * math.pi)


def fit_gaussian_mixture(
    key: Key,
    codes: Array | np.ndarray,
    *,
    num_components: int = 10,
    num_steps: int = 100,
    floor: float = 1e-4,
) -> GaussianMixture:
    """Fits a mixture of Gaussians to codes by expectation maximisation (EM).

    The first means are codes far from each other (k-means++), each with the codes nearest to it. A
    step of EM never lowers the likelihood: that holds with the floor of the variances, as clipped
    eigenvalues are the best ones above it.

    Args:
      key: a single key.
      codes: codes [N, L] of training images, such as the means of q(z|x).
      num_components: number of Gaussians K.
      num_steps: number of steps of EM.
      floor: least variance of a component in any direction, where each latent has the variance 1
        over all codes; above 0. A latent of the same value in all codes keeps its scale.

    Raises:
      ValueError: if codes are not finite numbers [N, L] with at least num_components rows, a number
        is not positive, or floor is not in (0, 1].

    References:
      Ghosh et al., From Variational to Deterministic Autoencoders, 2020 (arXiv:1903.12436),
      section 4. Dempster, Laird & Rubin, Maximum Likelihood from Incomplete Data via the EM
      Algorithm, 1977. Arthur & Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007.

    Examples:
      >>> import jax
      >>> from genmod import nets, rng, vae
      >>> codes = jax.random.normal(rng.root(0), (200, 2))
      >>> mixture = vae.fit_gaussian_mixture(rng.root(1), codes, num_components=3)
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> params = model.init(rng.root(2), jax.numpy.zeros((3, 6, 6, 1)))
      >>> draw = vae.generate(model._replace(prior=mixture.prior))
      >>> draw(rng.per_example(rng.root(3), 5), params).shape
      (5, 6, 6, 1)
    """
    num_components = checks.positive_integer("num_components", num_components)
    num_steps = checks.positive_integer("num_steps", num_steps)
    if not (checks.is_finite_number(floor) and 0 < floor <= 1):
        raise ValueError(f"floor must be a number in (0, 1], got {floor!r}")
    codes = jnp.asarray(codes)
    if codes.ndim != 2 or len(codes) < num_components or not codes.shape[1]:
        raise ValueError(
            f"codes must be [N, L] with N of at least num_components = {num_components}, "
            f"got {list(codes.shape)}"
        )
    codes = codes.astype(checks.summed_as(codes.dtype))
    if not isinstance(codes, jax.core.Tracer):
        checks.values_within("codes", codes, (-math.inf, math.inf), "a finite number", hint=False)
    return _fit(key, codes, float(floor), num_components, num_steps)


class _Components(NamedTuple):
    """Gaussians by the eigenvalues of their covariances.

    Attributes:
      log_weights: logarithms of the weights, [K].
      means: means, [K, L].
      directions: eigenvectors in columns, [K, L, L].
      variances: eigenvalues, [K, L].
    """

    log_weights: Array
    means: Array
    directions: Array
    variances: Array


@functools.partial(jax.jit, static_argnums=(3, 4))
def _fit(
    key: Key, codes: Array, floor: Array, num_components: int, num_steps: int
) -> GaussianMixture:
    centre, spread = codes.mean(0, keepdims=True), codes.std(0, keepdims=True)
    scale = jnp.where(spread > 0, spread, 1)
    x = (codes - centre) / scale

    def maximise(shares: Array, before: _Components) -> _Components:
        """Returns the components of greatest likelihood for the shares [K, N] of the codes."""

        def of_one(given: tuple[Array, ...]) -> tuple[Array, ...]:
            share, *kept = given
            total = share.sum()
            safe = jnp.where(total > 0, total, 1)
            mean = jnp.matmul(share, x, precision=_EXACT) / safe
            rest = x - mean[None]
            covariance = jnp.matmul((rest * share[:, None]).T, rest, precision=_EXACT) / safe
            variances, directions = jnp.linalg.eigh(covariance)
            found = mean, directions, jnp.maximum(variances, floor)
            # A component without codes stays where it was, with a weight of zero.
            return tuple(jnp.where(total > 0, a, b) for a, b in zip(found, kept, strict=True))

        found = jax.lax.map(of_one, (shares, before.means, before.directions, before.variances))
        return _Components(jnp.log(shares.sum(1) / len(x)), *found)

    def step(components: _Components, _: None) -> tuple[_Components, Array]:
        joint = _log_joint(components, x)
        log_density = jax.nn.logsumexp(joint, axis=0)
        shares = jnp.exp(joint - log_density[None])
        return maximise(shares, components), log_density.mean()

    means = _far_codes(key, x, num_components)
    squares = jax.lax.map(lambda mean: jnp.square(x - mean[None]).sum(1), means)
    own = jax.nn.one_hot(squares.argmin(0), num_components, axis=0, dtype=x.dtype)
    eyes = jnp.broadcast_to(jnp.eye(x.shape[1], dtype=x.dtype), (len(means), *[x.shape[1]] * 2))
    start = _Components(jnp.zeros(len(means), x.dtype), means, eyes, jnp.ones_like(means))
    fitted, trace = jax.lax.scan(step, maximise(own, start), None, num_steps)

    # With covariance = a a^T and a^T = q r, the Cholesky factor is r^T with a positive diagonal.
    a = scale[..., None] * fitted.directions * jnp.sqrt(fitted.variances)[:, None]
    lower = jnp.linalg.qr(a.swapaxes(1, 2), mode="r").swapaxes(1, 2)
    signs = jnp.sign(jnp.diagonal(lower, axis1=1, axis2=2))
    return GaussianMixture(
        fitted.log_weights,
        centre + scale * fitted.means,
        lower * signs[:, None],
        trace - jnp.log(scale).sum(),
    )


def _log_joint(components: _Components, x: Array) -> Array:
    """Returns the log of weight times density of each component, [K, N]."""

    def of_one(one: _Components) -> Array:
        along = jnp.matmul(x - one.means[None], one.directions, precision=_EXACT)
        squares = jnp.square(along * jax.lax.rsqrt(one.variances)[None]).sum(1)
        constant = jnp.log(one.variances).sum() + x.shape[1] * _LOG_2_PI
        return one.log_weights - 0.5 * (squares + constant)

    return jax.lax.map(of_one, components)


def _far_codes(key: Key, x: Array, num: int) -> Array:
    """Chooses codes by k-means++: each by its squared distance from those before, [num, L]."""
    first = x[jax.random.randint(rng.stream(key, "first"), (), 0, len(x))]

    def choose(squares: Array, index: Array) -> tuple[Array, Array]:
        own = rng.at_step(rng.stream(key, "next"), index)
        chosen = x[jax.random.categorical(own, jnp.log(squares))]
        return jnp.minimum(squares, _squares(x, chosen)), chosen

    _, others = jax.lax.scan(choose, _squares(x, first), jnp.arange(num - 1))
    return jnp.concatenate([first[None], others])


def _squares(x: Array, point: Array) -> Array:
    return jnp.square(x - point[None]).sum(1)


def aggregated_posterior(model: Vae, examples: Batch) -> Prior:
    """Returns the mixture of the posteriors of some images, as a prior.

        q(z) = 1/N sum_n q(z | x_n)

    A draw is one of q(z | x_n), of a random image. The model's own encoder gives the posteriors, so
    the density has no parameters. Its images resemble the given ones, and say nothing of new ones.

    Args:
      model: the VAE.
      examples: training images [N, ...], or images and conditions as its batches are. They become
        part of each program that is compiled with them; some thousands are enough to draw from.

    Raises:
      ValueError: if examples are no batch of the model.

    References:
      Makhzani et al., Adversarial Autoencoders, 2016 (arXiv:1511.05644), equation 1.
    """
    x, c = model.condition(examples)

    def sample(keys: Keys, params: Params, posterior: Encode) -> Array:
        del params
        checks.keys(keys)

        def draw(key: Key) -> Array:
            return jax.random.randint(key, (), 0, len(x))

        index = jax.vmap(draw)(rng.stream(keys, "image"))
        own = posterior(*jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], (x, c)))
        return model.sample(rng.stream(keys, "posterior"), *own)

    def log_prob(params: Params, z: Array, posterior: Encode) -> Array:
        del params
        parameters = posterior(x, c)

        def at(one: Array) -> Array:
            same = jnp.broadcast_to(one, (len(x), *one.shape))
            return jax.nn.logsumexp(model.posterior.log_prob(same, *parameters)) - math.log(len(x))

        return jax.lax.map(at, z)

    return Prior(_no_params, sample, log_prob, latent_dim=model.latent_dim)


def tempered(model: Vae, *, temperature: float) -> Vae:
    """Returns a VAE whose prior is drawn at a temperature.

        z ~ N(mean, temperature^2 * variance)

    This is the prior N(0, I), or that of each layer of a hierarchy, given the layers that it
    depends on. A temperature below 1 gives likelier, less varied images.

    Args:
      model: VAE with the prior N(0, I), or a hierarchical one, made by `chain` or `ladder`.
      temperature: factor of all standard deviations of p(z), positive.

    Returns:
      A Vae that differs in its prior alone.

    Raises:
      ValueError: if the temperature is not positive, or the prior, or that of the top layer, is
        another.

    References:
      Vahdat & Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020 (arXiv:2007.03898),
      section 4.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> params = model.init(rng.root(0), jnp.zeros((3, 6, 6, 1)))
      >>> draw = vae.generate(vae.tempered(model, temperature=0.7))
      >>> draw(rng.per_example(rng.root(1), 5), params).shape
      (5, 6, 6, 1)
    """
    checks.positive("temperature", temperature)
    if isinstance(model.sample, LayeredDraw):
        return model._replace(prior=model.sample.prior_at(temperature))
    if not model.prior.is_standard_normal:
        raise ValueError(
            "tempered needs the prior N(0, I), or a hierarchy with it on top, got another prior"
        )
    prior, log_variance = model.prior, 2 * math.log(temperature)

    def sample(keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
        return temperature * prior.sample(keys, params, posterior)

    def log_prob(params: Params, z: Array, posterior: Encode | None = None) -> Array:
        del params, posterior
        return log_normal(z, 0.0, log_variance)

    return model._replace(prior=Prior(prior.init, sample, log_prob, latent_dim=prior.latent_dim))


def _no_params(key: Key, x: Any) -> Params:
    del key, x
    return ()
