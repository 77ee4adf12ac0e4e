"""Priors p(z)."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from genmod import checks
from genmod.types import Array, Key, Keys, Params
from genmod.vae import posteriors


class Prior(NamedTuple):
    """A distribution over latents, as pure functions.

    Attributes:
      init: `key -> params`; `()` where there is nothing to learn.
      sample: `(keys [B], params) -> z [B, L]`.
      kl_divergence: `(params, mean [B, L], logvar [B, L]) -> [B]`, from the diagonal Gaussian
        posterior to this prior, in nats.
    """

    init: Callable[[Key], Params]
    sample: Callable[[Keys, Params], Array]
    kl_divergence: Callable[[Params, Array, Array], Array]


def standard_normal(latent_dim: int) -> Prior:
    """N(0, I) in `latent_dim` dimensions; it has no parameters."""

    def sample(keys: Keys, params: Params) -> Array:
        del params
        checks.keys(keys)
        return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,)))(keys)

    def kl_divergence(params: Params, mean: Array, logvar: Array) -> Array:
        del params
        return posteriors.kl_divergence(mean, logvar)

    return Prior(init=lambda key: (), sample=sample, kl_divergence=kl_divergence)
