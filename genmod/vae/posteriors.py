"""Approximate posteriors q(z|x), as functions of the encoder's output."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array, Key, Keys, Params
from genmod.vae import normal
from genmod.vae.flows import Flow


class Posterior(NamedTuple):
    """Distribution over latents, given the encoder's output.

    Its parameters are a tuple, such as (mean, logvar). The first of them is the mean or another
    central point [B, L], which `reconstruct` decodes.

    A posterior may have parameters of its own that all examples share, such as the networks of a
    flow. They are initialised with the encoder's (`EncoderParams`), and are the last one of the
    parameters, a tree of arrays without the axis B. So a density at a fixed draw can be
    differentiated by the draw alone: all that it depends on is among its arguments.

    Attributes:
      split: parameters of q(z|x), `output -> tuple of arrays [B, ...]`; with shared parameters
        `(output, shared) -> (arrays [B, ...], ..., shared)`.
      sample: reparametrised draw, `(keys [B], *parameters) -> z [B, L]`.
      log_prob: log q(z|x) in nats, `(z [B, L], *parameters) -> [B]`.
      init: initial shared parameters, `key -> shared`; None if there are none.
      latent_dim: number of latent dimensions L; None if not told.
      is_on_sphere: whether z lies on the unit sphere, with densities of its surface.
      draw: a draw and its density, `(keys [B], *parameters) -> (z [B, L], log q(z|x) [B])`, the
        same as those of `sample` and `log_prob`, if they are quicker found together; None if they
        are not. The density at the draw of a flow needs no inverse.
    """

    split: Callable[..., tuple[Any, ...]]
    sample: Callable[..., Array]
    log_prob: Callable[..., Array]
    init: Callable[[Key], Params] | None = None
    latent_dim: int | None = None
    is_on_sphere: bool = False
    draw: Callable[..., tuple[Array, Array]] | None = None

    @property
    def is_diagonal_normal(self) -> bool:
        """Whether the parameters are mean and logarithm of the variance of a diagonal Gaussian."""
        return self.log_prob is normal.log_normal


def sample(keys: Keys, mean: Array, logvar: Array) -> Array:
    """Draws one latent per example by the reparametrisation trick.

        z = mean + exp(logvar / 2) * noise,    noise ~ N(0, I)

    The draw is differentiable in mean and logvar.

    Args:
      keys: one key per example, [B].
      mean: means, [B, L].
      logvar: logarithms of the variances, [B, L].

    Returns:
      z [B, L].

    Raises:
      ValueError: if there is not one key for each example. A single key of shape [1] is refused
        too: broadcast, it would give all examples the same noise.

    References:
      Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114), section 2.4.
    """
    checks.keys(keys, len(mean))
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(0.5 * logvar) * noise


def diagonal_normal(latent_dim: int) -> Posterior:
    """Returns the diagonal Gaussian, whose parameters are (mean, logvar).

    Its encoder returns [B, 2 * latent_dim]: the means, then the logarithms of the variances. An
    output of any other shape is refused (ValueError).

    Args:
      latent_dim: number of latent dimensions L.

    References:
      Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114), equation 9.
    """

    def split(moments: Array) -> tuple[Array, Array]:
        check_output("2 * latent_dim", moments, 2 * latent_dim)
        return moments[:, :latent_dim], moments[:, latent_dim:]

    return Posterior(split, sample, normal.log_normal, latent_dim=latent_dim)


def check_output(what: str, output: Array, width: int) -> None:
    """Refuses an encoder's output of another shape than [B, width].

    Args:
      what: the width in words, such as "2 * latent_dim".
      output: the output.
      width: expected width.
    """
    if output.ndim != 2 or output.shape[1] != width:
        raise ValueError(
            f"the encoder must return [B, {what}] = [B, {width}], got {list(output.shape)}"
        )


def full_normal(latent_dim: int) -> Posterior:
    """Returns the Gaussian with any covariance, whose parameters are (mean, factor).

        z = mean + factor noise,    noise ~ N(0, I),    covariance = factor factor^T

    Its encoder returns [B, L (L + 3) / 2]: the L means, the logarithms of the squares of the
    factor's diagonal, then what lies below the diagonal, row by row. Without the last numbers it is
    the output of `diagonal_normal`. The factor [B, L, L] is lower triangular.

    Args:
      latent_dim: number of latent dimensions L.

    References:
      Kingma & Welling, An Introduction to Variational Autoencoders, 2019 (arXiv:1906.02691),
      section 2.5.1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> mean, factor = vae.full_normal(2).split(jnp.array([[5.0, 6.0, 0.0, 0.0, 0.5]]))
      >>> factor.tolist()
      [[[1.0, 0.0], [0.5, 1.0]]]
    """
    rows, columns = np.tril_indices(latent_dim, -1)
    diagonal = np.arange(latent_dim)

    def split(output: Array) -> tuple[Array, Array]:
        check_output(
            "latent_dim * (latent_dim + 3) / 2", output, latent_dim * (latent_dim + 3) // 2
        )
        mean, logvar, below = jnp.split(output, (latent_dim, 2 * latent_dim), axis=1)
        factor = jnp.zeros((len(output), latent_dim, latent_dim), output.dtype)
        factor = factor.at[:, diagonal, diagonal].set(jnp.exp(0.5 * logvar))
        return mean, factor.at[:, rows, columns].set(below)

    def draw(keys: Keys, mean: Array, factor: Array) -> Array:
        noise = sample(keys, jnp.zeros_like(mean), jnp.zeros_like(mean))
        return mean + jnp.einsum("bij,bj->bi", factor, noise, precision=jax.lax.Precision.HIGHEST)

    def log_prob(z: Array, mean: Array, factor: Array) -> Array:
        dtype = checks.summed_as(jnp.result_type(z, mean, factor))
        factor, distance = factor.astype(dtype), (z - mean).astype(dtype)
        log_det = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1)
        solve = jax.vmap(lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True))
        return normal.log_normal(solve(factor, distance)) - log_det

    return Posterior(split, draw, log_prob, latent_dim=latent_dim)


def flow_posterior(flow: Callable[[int], Flow]) -> Callable[[int], Posterior]:
    """Makes a posterior: a flow of a diagonal Gaussian.

        z = forward(z0, h),    z0 ~ N(mean, exp(logvar)),
        log q(z | x) = log N(z0; mean, exp(logvar)) - log |dz / dz0|

    Its encoder returns [B, 2 L + context]: means, logarithms of variances, and the flow's context
    h. The density at any z is exact, by the inverse of the flow. Its parameters are (centre, mean,
    logvar, h, shared); the centre is where the flow takes the mean, and the last are the flow's own
    parameters.

    Args:
      flow: maker `latent_dim -> Flow`: `planar`, `inverse_autoregressive`, `coupling`, `composed`.

    Returns:
      A function `latent_dim -> Posterior`, for `vae.make`.

    References:
      Rezende & Mohamed, Variational Inference with Normalizing Flows, 2015 (arXiv:1505.05770),
      section 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> posterior = vae.flow_posterior(vae.planar(num_layers=3))
      >>> encoder, decoder = nets.mlp((8,), 2 * 2 + 3 * 5), nets.mlp((8,), (6, 6, 1))
      >>> model = vae.make(encoder, decoder, latent_dim=2, posterior=posterior)
      >>> x = jnp.zeros((3, 6, 6, 1))
      >>> parameters = model.encode(model.init(rng.root(0), x), x)
      >>> model.sample(rng.per_example(rng.root(1), 3), *parameters).shape
      (3, 2)
    """

    def made(latent_dim: int) -> Posterior:
        own = flow(latent_dim)
        width = 2 * latent_dim + own.context

        def split(output: Array, shared: Params) -> tuple[Any, ...]:
            check_output("2 * latent_dim + the flow's context", output, width)
            # An inverse in bfloat16 would not find the draw's origin.
            output = output.astype(checks.summed_as(output.dtype))
            mean, logvar, h = jnp.split(output, (latent_dim, 2 * latent_dim), axis=1)
            return own.forward(shared, mean, h)[0], mean, logvar, h, shared

        def draw(
            keys: Keys, centre: Array, mean: Array, logvar: Array, h: Array, shared: Params
        ) -> tuple[Array, Array]:
            del centre
            start = sample(keys, mean, logvar)
            z, log_det = own.forward(shared, start, h)
            return z, normal.log_normal(start, mean, logvar) - log_det

        def log_prob(
            z: Array, centre: Array, mean: Array, logvar: Array, h: Array, shared: Params
        ) -> Array:
            del centre
            start, log_det = own.inverse(shared, z, h)
            return normal.log_normal(start, mean, logvar) + log_det

        first = lambda keys, *parameters: draw(keys, *parameters)[0]  # noqa: E731
        return Posterior(split, first, log_prob, own.init, latent_dim, draw=draw)

    return made
