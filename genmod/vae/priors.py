"""Priors p(z) over the latents."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from genmod import checks
from genmod.types import Array, Key, Keys, Params
from genmod.vae import posteriors


class Prior(NamedTuple):
    """Prior distribution over latents, as pure functions.

    Attributes:
      init: initial parameters, `key -> params`; `()` if there is nothing to learn.
      sample: one draw per key, `(keys [B], params) -> z [B, L]`.
      kl_divergence: KL(q(z|x) || p(z)) in nats of the diagonal Gaussian posterior from this prior,
        `(params, mean [B, L], logvar [B, L]) -> [B]`.
    """

    init: Callable[[Key], Params]
    sample: Callable[[Keys, Params], Array]
    kl_divergence: Callable[[Params, Array, Array], Array]


def standard_normal(latent_dim: int) -> Prior:
    """Returns the prior N(0, I), which has no parameters.

    Args:
      latent_dim: number of latent dimensions L.
    """

    def sample(keys: Keys, params: Params) -> Array:
        del params
        checks.keys(keys)
        return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,)))(keys)

    def kl_divergence(params: Params, mean: Array, logvar: Array) -> Array:
        del params
        return posteriors.kl_divergence(mean, logvar)

    return Prior(init=lambda key: (), sample=sample, kl_divergence=kl_divergence)
