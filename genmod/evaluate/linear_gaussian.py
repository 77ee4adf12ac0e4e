"""Probabilistic PCA: a latent-variable model whose every quantity is a closed form.

    p(z) = N(0, I),    p(x | z) = N(W z + b, sigma^2 I)

An estimator of likelihoods or bounds is judged on it, since the truth is known: log p(x), the
posterior p(z | x) and the evidence lower bound (ELBO) of any diagonal Gaussian. The functions are
those that a model of another kind would give to an estimator. They compute at the highest matmul
precision, in the type of their arguments, float32 or float64.

References:
  Tipping & Bishop, Probabilistic Principal Component Analysis, 1999
  (https://doi.org/10.1111/1467-9868.00196).
  Lucas et al., Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse, 2019
  (arXiv:1911.02469).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from genmod import checks, rng
from genmod.types import Array, Key, Keys


class LinearGaussian(NamedTuple):
    """Parameters of the model.

    Attributes:
      weights: matrix W [D, L].
      bias: mean of x, b [D].
      sigma: standard deviation of the observation noise, [].
    """

    weights: Array
    bias: Array
    sigma: Array


class Posterior(NamedTuple):
    """Gaussian p(z | x).

    Attributes:
      mean: means, [B, L].
      covariance: the covariance that all examples share, [L, L].
    """

    mean: Array
    covariance: Array


def init(
    key: Key, num_dims: int, latent_dim: int, *, sigma: float = 1.0, dtype: Any = jnp.float32
) -> LinearGaussian:
    """Returns random parameters.

    The entries of W and b are drawn from N(0, 1).

    Args:
      key: single key.
      num_dims: number of dimensions D of x.
      latent_dim: number of latent dimensions L, below, at or above D.
      sigma: standard deviation of the observation noise.
      dtype: floating type; float64 needs JAX's x64 mode.

    Raises:
      ValueError: if a number is not positive.

    Example:
      >>> from genmod import rng
      >>> from genmod.evaluate import linear_gaussian
      >>> params = linear_gaussian.init(rng.root(0), 5, 2, sigma=0.5)
      >>> x, z = linear_gaussian.sample(rng.per_example(rng.root(1), 3), params)
      >>> linear_gaussian.log_likelihood(params, x).shape
      (3,)
    """
    num_dims = checks.positive_integer("num_dims", num_dims)
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    checks.positive("sigma", sigma)
    return LinearGaussian(
        weights=jax.random.normal(rng.stream(key, "weights"), (num_dims, latent_dim), dtype),
        bias=jax.random.normal(rng.stream(key, "bias"), (num_dims,), dtype),
        sigma=jnp.asarray(sigma, dtype),
    )


def sample(keys: Keys, params: LinearGaussian) -> tuple[Array, Array]:
    """Draws (x [B, D], z [B, L]) from the model, one pair per key."""
    checks.keys(keys)
    z = _normal(rng.stream(keys, "latent"), params, params.weights.shape[1])
    return simulate(keys, params, z), z


def simulate(keys: Keys, params: LinearGaussian, z: Array) -> Array:
    """Draws x [B, D] from p(x | z), one per key and latent [B, L]."""
    checks.keys(keys, len(z))
    noise = _normal(rng.stream(keys, "observation"), params, len(params.bias))
    return decode(params, z) + params.sigma * noise


def decode(params: LinearGaussian, z: Array) -> Array:
    """Returns the mean of p(x | z), [B, D]."""
    _check("z", z, params.weights.shape[1])
    return _product(z, params.weights.T) + params.bias[None]


def log_conditional(params: LinearGaussian, z: Array, x: Array) -> Array:
    """Returns log p(x | z) [B], in nats."""
    _check("x", x, len(params.bias))
    return _log_noise(params, jnp.square(x - decode(params, z)).sum(-1))


def log_likelihood(params: LinearGaussian, x: Array) -> Array:
    """Returns the exact log p(x) [B], in nats.

    With the posterior's mean m and precision A = I + W^T W / sigma^2, this is

        log p(x) = log p(x | m) - 1/2 |m|^2 - 1/2 log det A

    This form needs an L x L matrix only. Its squares are added, not subtracted, so that nothing
    cancels if sigma is small.
    """
    mean = posterior(params, x).mean
    log_det = 2 * jnp.log(jnp.diagonal(_cholesky(params))).sum()
    return log_conditional(params, mean, x) - 0.5 * (jnp.square(mean).sum(-1) + log_det)


def posterior(params: LinearGaussian, x: Array) -> Posterior:
    """Returns the exact p(z | x).

    covariance = A^-1,    mean = A^-1 W^T (x - b) / sigma^2,    A = I + W^T W / sigma^2
    """
    _check("x", x, len(params.bias))
    factor = (_cholesky(params), True)
    signal = _product((x - params.bias[None]) / params.sigma, params.weights / params.sigma)
    identity = jnp.eye(params.weights.shape[1], dtype=signal.dtype)
    return Posterior(cho_solve(factor, signal.T).T, cho_solve(factor, identity))


def marginals(params: LinearGaussian, x: Array) -> tuple[Array, Array]:
    """Returns mean and log variance of each latent given x, [B, L] each.

    They make the diagonal Gaussian that has the posterior's means and variances.
    """
    mean, covariance = posterior(params, x)
    return mean, jnp.broadcast_to(jnp.log(jnp.diagonal(covariance))[None], mean.shape)


def elbo(params: LinearGaussian, x: Array, mean: Array, logvar: Array) -> Array:
    """Returns the exact ELBO [B] of a diagonal Gaussian q(z | x), in nats.

        E_q[log p(x | z)] - KL(q(z | x) || N(0, I)),    q = N(mean, exp(logvar))

    Args:
      params: parameters of the model.
      x: examples, [B, D].
      mean: means of q, [B, L].
      logvar: logarithms of the variances of q, [B, L].
    """
    _check("x", x, len(params.bias))
    _check("logvar", logvar, params.weights.shape[1])
    squares = jnp.square(x - decode(params, mean)).sum(-1)
    spread = jnp.exp(logvar) * jnp.square(params.weights).sum(0)[None]
    kl = 0.5 * (jnp.square(mean) + jnp.expm1(logvar) - logvar).sum(-1)
    return _log_noise(params, squares + spread.sum(-1)) - kl


def log_weight(
    keys: Keys,
    params: LinearGaussian,
    batch: Array,
    *,
    proposal: Callable[[LinearGaussian, Array], tuple[Array, Array]] = marginals,
) -> Array:
    """Returns the importance weight of one draw per example [B], in nats.

        log w = log p(x, z) - log q(z | x),    z ~ q(z | x)

    Args:
      keys: one key per example, [B].
      params: parameters of the model.
      batch: examples x, [B, D].
      proposal: diagonal Gaussian q, a function `(params, x) -> (mean [B, L], logvar [B, L])`. The
        default is the exact posterior if it is diagonal, that is, if the columns of W are
        orthogonal: every weight is then p(x).
    """
    checks.keys(keys, len(batch))
    mean, logvar = proposal(params, batch)
    noise = _normal(rng.stream(keys, "proposal"), params, params.weights.shape[1])
    z = mean + jnp.exp(0.5 * logvar) * noise
    # log p(z) - log q(z | x): the terms with log(2 pi) cancel.
    log_ratio = 0.5 * (jnp.square(noise) + logvar - jnp.square(z)).sum(-1)
    return log_conditional(params, z, batch) + log_ratio


def _log_noise(params: LinearGaussian, squares: Array) -> Array:
    """Returns the log density of noise with these sums of squares, [B]."""
    num_dims = len(params.bias)
    scale = num_dims * (0.5 * math.log(2 * math.pi) + jnp.log(params.sigma))
    return -0.5 * squares / jnp.square(params.sigma) - scale


def _cholesky(params: LinearGaussian) -> Array:
    """Returns the lower Cholesky factor of the posterior's precision, [L, L]."""
    scaled = params.weights / params.sigma
    identity = jnp.eye(scaled.shape[1], dtype=scaled.dtype)
    return jnp.linalg.cholesky(identity + _product(scaled.T, scaled))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _normal(keys: Keys, params: LinearGaussian, num: int) -> Array:
    dtype = params.weights.dtype
    return jax.vmap(lambda key: jax.random.normal(key, (num,), dtype))(keys)


def _check(name: str, values: Array, width: int) -> None:
    """Refuses an array of another shape than [B, width].

    Others would be broadcast.
    """
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{name} must have the shape [B, {width}], got {list(values.shape)}")
