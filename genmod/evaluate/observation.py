"""Gaussian observations: a likelihood for models that only generate images.

    p(x | z) = N(G(z), sigma^2 I)

A GAN's generator G has no likelihood of its own. With Gaussian noise of standard deviation sigma on
its images, it gets one, and `annealed` and `bidirectional` apply to it. One sigma is chosen on
validation data. The data must be dequantised, as by `data.dequantized`: the density of whole grey
values has no upper limit.

References:
  Wu et al., On the Quantitative Analysis of Decoder-Based Generative Models, 2017
  (arXiv:1611.04273), section 2.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.evaluate.annealing import Simulate, annealed
from genmod.evaluate.averages import estimate
from genmod.evaluate.tempering import LogLikelihood
from genmod.types import Array, Batch, Key, Keys, Params

Generate = Callable[[Params, Array], Array]
"""Function `(params, z [B, L]) -> images [B, ...]`."""


class Observation(NamedTuple):
    """Observation model p(x | z).

    Attributes:
      log_likelihood: function `(params, z [B, L], batch) -> log p(x | z) [B]`, in nats.
      simulate: function `(keys [B], params, z [B, L]) -> x` that draws from p(x | z).
    """

    log_likelihood: LogLikelihood
    simulate: Simulate


class Chosen(NamedTuple):
    """Standard deviation chosen among several.

    Attributes:
      sigma: the one of the largest mean lower bound.
      sigmas: all of them, [K].
      lower: mean lower bound of log p(x) for each, in nats, [K].
      error: standard error of this mean over examples, [K].
    """

    sigma: float
    sigmas: np.ndarray
    lower: np.ndarray
    error: np.ndarray


def gaussian_observation(generate: Generate, sigma: float) -> Observation:
    """Returns the model with Gaussian noise on generated images.

    Args:
      generate: function `(params, z [B, L]) -> images [B, ...]`, such as a GAN's `generate`, or a
        VAE's decoder followed by the mean of its likelihood.
      sigma: standard deviation of the noise, in units of the images.

    Raises:
      ValueError: if sigma is not positive; when called, if the generated images do not have the
        shape of the given ones.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod.evaluate.observation import gaussian_observation
      >>> model = gaussian_observation(lambda params, z: z @ params, 0.1)
      >>> model.log_likelihood(jnp.ones((2, 784)), jnp.zeros((3, 2)), jnp.zeros((3, 784))).shape
      (3,)
    """
    checks.positive("sigma", sigma)

    def log_likelihood(params: Params, z: Array, batch: Batch) -> Array:
        return _log_normal(generate(params, z), batch, jnp.full(len(z), sigma))

    def simulate(keys: Keys, params: Params, z: Array) -> Array:
        mean = generate(params, z)
        checks.keys(keys, len(mean))
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
        return mean + sigma * noise

    return Observation(log_likelihood, simulate)


def choose_sigma(
    key: Key,
    params: Params,
    examples: Any,
    generate: Generate,
    *,
    sigmas: Sequence[float] | np.ndarray,
    **options: Any,
) -> Chosen:
    """Returns the standard deviation that suits validation images best.

    It is the one with the largest mean lower bound by `annealed`, computed for all candidates. If
    it is the smallest or the largest candidate, a warning says so, as a better one may lie beyond.

    Args:
      key: single key.
      params: parameters of the model.
      examples: validation images [N, ...], dequantised; a few dozen suffice, as all candidates are
        judged on the same ones.
      generate: function `(params, z [B, L]) -> images [B, ...]`.
      sigmas: candidates, [K].
      options: options of `annealed`, such as latent_dim; the candidates' examples are annealed
        together.

    Raises:
      ValueError: if a candidate is not positive, there is none, the examples are not floating or
        not finite, or as for `annealed`.

    Example:
      >>> import jax
      >>> from genmod import rng
      >>> from genmod.evaluate.observation import choose_sigma
      >>> options = {"latent_dim": 1, "num_temperatures": 10, "progress": False}
      >>> x = 2 * jax.random.normal(rng.root(0), (8, 1))
      >>> found = choose_sigma(rng.root(1), (), x, lambda p, z: z, sigmas=[0.2, 2, 20], **options)
      >>> found.sigma
      2.0
    """
    candidates = np.asarray(sigmas, np.float64)
    if candidates.ndim != 1 or not len(candidates):
        raise ValueError(f"sigmas must have the shape [K], got {checks.described(sigmas)}")
    for sigma in candidates:
        checks.positive("sigmas", sigma)
    images = np.asarray(examples)
    num = checks.leading_axis("examples", images)
    _check_floating("examples", images)
    if not np.isfinite(images).all():
        raise ValueError(
            f"examples must be finite, got {int((~np.isfinite(images)).sum())} of {images.size} "
            "NaN or infinite"
        )

    def log_likelihood(params: Params, z: Array, batch: Batch) -> Array:
        return _log_normal(generate(params, z), batch["image"], batch["sigma"])

    # Each candidate has its own copy of the examples, so that one program serves all.
    each = {
        "image": np.tile(images, (len(candidates), *[1] * (images.ndim - 1))),
        "sigma": np.repeat(candidates, num).astype(images.dtype),
    }
    lower = annealed(key, params, each, log_likelihood, **options).lower
    means, errors = np.array([estimate(one) for one in lower.reshape(-1, num)]).T
    best = float(candidates[means.argmax()])
    if best in (candidates.min(), candidates.max()):
        warnings.warn(
            f"the best sigma {best:g} is the smallest or the largest of the candidates; a better "
            "one may lie beyond",
            stacklevel=2,
        )
    return Chosen(best, candidates, means, errors)


def _log_normal(mean: Array, x: Array, sigma: Array) -> Array:
    """Returns log N(x; mean, sigma^2 I) [B] with one sigma per image [B]."""
    if mean.shape != x.shape:
        raise ValueError(
            f"generate must return images of the shape {list(x.shape)}, got {list(mean.shape)}"
        )
    _check_floating("images", x)
    offsets = (x - mean).reshape(len(x), -1)
    constant = offsets.shape[1] * (0.5 * math.log(2 * math.pi) + jnp.log(sigma))
    return -0.5 * jnp.square(offsets).sum(-1) / jnp.square(sigma) - constant


def _check_floating(name: str, x: Array | np.ndarray) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be floating, in the range of the generated ones, got {x.dtype}; "
            "data.dequantized makes them so of uint8 images"
        )
