"""The approximate posterior q(z|x): a Gaussian with a diagonal covariance."""

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array, Keys


def sample(keys: Keys, mean: Array, logvar: Array) -> Array:
    """A draw z = mean + exp(logvar / 2) * noise, differentiable in mean and logvar.

    The reparametrisation trick (Kingma & Welling 2014, section 2.4).

    Args:
      keys: one key per example, [B].
      mean: [B, L].
      logvar: logarithm of the variance, [B, L].

    Returns:
      z [B, L].

    Raises:
      ValueError: if keys are not one per example.
    """
    checks.keys(keys, len(mean))
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(0.5 * logvar) * noise


def kl_divergence(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, exp(logvar)) || N(0, I)) in nats, in closed form.

    Kingma & Welling (2014), appendix B: 1/2 sum(mean^2 + var - 1 - log var). The difference
    var - 1 goes through expm1, which keeps it exact where the posterior is close to the prior.

    Args:
      mean: [B, L].
      logvar: logarithm of the variance, [B, L].

    Returns:
      [B], at least 0.

    Raises:
      ValueError: if the shapes differ or are not [B, L].
    """
    if mean.ndim != 2 or mean.shape != logvar.shape:
        raise ValueError(
            f"mean and logvar must have one shape [B, L], got {mean.shape} and {logvar.shape}"
        )
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.expm1(logvar) - logvar, axis=-1)
