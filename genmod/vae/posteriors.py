"""Approximate posteriors q(z|x), as functions of the encoder's output."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array, Keys
from genmod.vae import normal


class Posterior(NamedTuple):
    """Distribution over latents, given the encoder's output.

    Its parameters are a tuple, such as (mean, logvar). The first of them is the mean or another
    central point [B, L], which `reconstruct` decodes.

    Attributes:
      split: parameters of q(z|x), `output -> tuple of arrays [B, ...]`.
      sample: reparametrised draw, `(keys [B], *parameters) -> z [B, L]`.
      log_prob: log q(z|x) in nats, `(z [B, L], *parameters) -> [B]`.
    """

    split: Callable[[Any], tuple[Array, ...]]
    sample: Callable[..., Array]
    log_prob: Callable[..., Array]

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
        if moments.ndim != 2 or moments.shape[1] != 2 * latent_dim:
            raise ValueError(
                f"the encoder must return [B, 2 * latent_dim] = [B, {2 * latent_dim}], "
                f"got {list(moments.shape)}"
            )
        return moments[:, :latent_dim], moments[:, latent_dim:]

    return Posterior(split, sample, normal.log_normal)
