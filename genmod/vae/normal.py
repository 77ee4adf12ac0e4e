"""Diagonal Gaussians: densities and divergences."""

import math

import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array


def log_normal(
    z: Array | np.ndarray,
    mean: Array | np.ndarray | float = 0.0,
    logvar: Array | np.ndarray | float = 0.0,
) -> Array:
    """Returns the log density of a diagonal Gaussian, in nats.

        log N(z; mean, exp(logvar)) = -1/2 sum(log(2 pi) + logvar + (z - mean)^2 / exp(logvar))

    The sum is over the last axis. Leading axes are broadcast: z [B, 1, L] and means [K, L] of K
    components give [B, K].

    Args:
      z: values, [..., L].
      mean: means, [..., L] or one number.
      logvar: logarithms of the variances, [..., L] or one number.

    Returns:
      [...], in float32 at least.

    Raises:
      ValueError: if the last axes are not all of one length, or the leading axes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> [round(value, 4) for value in vae.log_normal(jnp.array([[0.0], [1.0]])).tolist()]
      [-0.9189, -1.4189]
    """
    z, mean, logvar = _broadcast(z=z, mean=mean, logvar=logvar)
    # The factor is halved before the square, which would otherwise be 0 * inf at a tiny variance.
    squares = jnp.square((z - mean) * jnp.exp(-0.5 * logvar))
    return -0.5 * jnp.sum(math.log(2 * math.pi) + logvar + squares, axis=-1)


def kl_normal(
    mean: Array | np.ndarray,
    logvar: Array | np.ndarray,
    other_mean: Array | np.ndarray | float,
    other_logvar: Array | np.ndarray | float,
) -> Array:
    """Returns the KL divergence of each dimension of two diagonal Gaussians, in nats.

        KL(N(mean, exp(logvar)) || N(other_mean, exp(other_logvar)))
            = 1/2 ((mean - other_mean)^2 / exp(other_logvar) + ratio - 1 - log ratio),
        log ratio = logvar - other_logvar

    This closed form is computed with expm1 for ratio - 1, which stays exact if the two are almost
    equal. Leading axes are broadcast. The sum over the last axis is the KL divergence of all
    dimensions; from N(0, I) it is `kl_divergence`.

    Args:
      mean: means of the first Gaussian, [..., L].
      logvar: logarithms of its variances, [..., L].
      other_mean: means of the second Gaussian, [..., L] or one number.
      other_logvar: logarithms of its variances, [..., L] or one number.

    Returns:
      [..., L], in float32 at least.

    Raises:
      ValueError: if the last axes are not all of one length, or the leading axes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> vae.kl_normal(jnp.array([0.0, 3.0]), jnp.zeros(2), jnp.array([0.0, 1.0]), 0.0).tolist()
      [0.0, 2.0]
    """
    mean, logvar, other_mean, other_logvar = _broadcast(
        mean=mean, logvar=logvar, other_mean=other_mean, other_logvar=other_logvar
    )
    log_ratio = logvar - other_logvar
    squares = jnp.square((mean - other_mean) * jnp.exp(-0.5 * other_logvar))
    return 0.5 * (squares + jnp.expm1(log_ratio) - log_ratio)


def kl_divergence(mean: Array, logvar: Array) -> Array:
    """Returns the KL divergence from N(0, I), in nats.

        KL(N(mean, exp(logvar)) || N(0, I)) = 1/2 sum(mean^2 + var - 1 - log var)

    This closed form is computed with expm1 for var - 1, which stays exact if the posterior is close
    to the prior.

    Args:
      mean: means, [B, L].
      logvar: logarithms of the variances, [B, L].

    Returns:
      [B], at least 0, in float32 at least.

    Raises:
      ValueError: if the shapes differ or are not [B, L].

    References:
      Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114), appendix B.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> mean, logvar = jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.zeros((2, 2))
      >>> vae.kl_divergence(mean, logvar).tolist()
      [0.0, 2.5]
    """
    if mean.ndim != 2 or mean.shape != logvar.shape:
        raise ValueError(
            f"mean and logvar must have one shape [B, L], got {mean.shape} and {logvar.shape}"
        )
    each = jnp.square(mean) + jnp.expm1(logvar) - logvar
    return 0.5 * jnp.sum(each, axis=-1, dtype=checks.summed_as(each.dtype))


def _broadcast(**arrays: Array | np.ndarray | float) -> list[Array]:
    """Returns arrays of one shape [..., L] and one floating type."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    try:
        shape = jnp.broadcast_shapes(*shapes.values())
    except ValueError:
        shape = ()
    # A last axis of length 1 is not broadcast: it would be a latent that counts L times.
    if not shape or any(own and own[-1] != shape[-1] for own in shapes.values()):
        got = ", ".join(f"{name} {own}" for name, own in shapes.items())
        raise ValueError(
            f"{', '.join(shapes)} must be arrays [..., L] of one L, or numbers, got {got}"
        )
    dtype = checks.summed_as(jnp.result_type(*arrays.values()))
    return [jnp.broadcast_to(jnp.asarray(array, dtype), shape) for array in arrays.values()]
