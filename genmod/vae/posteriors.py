"""The approximate posterior q(z|x), a diagonal Gaussian."""

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array, Keys


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


def kl_divergence(mean: Array, logvar: Array) -> Array:
    """Returns the KL divergence from N(0, I), in nats.

        KL(N(mean, exp(logvar)) || N(0, I)) = 1/2 sum(mean^2 + var - 1 - log var)

    This closed form is computed with expm1 for var - 1, which stays exact if the posterior is close
    to the prior.

    Args:
      mean: means, [B, L].
      logvar: logarithms of the variances, [B, L].

    Returns:
      [B], at least 0.

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
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.expm1(logvar) - logvar, axis=-1)
