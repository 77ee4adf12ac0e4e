"""Priors p(z) over the latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from genmod import checks
from genmod.types import Array, Key, Keys, Params
from genmod.vae import normal

Encode = Callable[..., tuple[Array, ...]]
"""Function `(x [K, ...], c=None) -> parameters of q(z|x)`.

It is the model's `encode` with the current parameters, for a prior made of posteriors.
"""


class Prior(NamedTuple):
    """Prior distribution over latents, as pure functions.

    The argument `posterior` is the model's encoder with its current parameters, a function of
    images x [K, ...] that returns the parameters of q(z|x), such as (mean, logvar) [K, L]. A prior
    like the VampPrior, a mixture of the posteriors of learned images, calls it; gradients go
    through it to the encoder. That of a conditional model is a function of (x, c): the learned
    images then have learned or fixed conditions of their own, as p(z) itself depends on none.

    Attributes:
      init: initial parameters, `(key, x [B, H, W, C]) -> params`; `()` if there is nothing to
        learn.
      sample: one draw per key, `(keys [B], params, posterior=None) -> z [B, L]`.
      log_prob: log p(z) in nats, `(params, z [B, L], posterior=None) -> [B]`.
      kl_divergence: KL(q(z|x) || p(z)) in nats of a diagonal Gaussian posterior from this prior,
        `(params, mean [B, L], logvar [B, L]) -> [B]`. If None, objectives estimate it by log q(z|x)
        - log p(z) at the draw z.
      is_standard_normal: whether p(z) is N(0, I), which can be drawn from without the model.
    """

    init: Callable[[Key, Array], Params]
    sample: Callable[..., Array]
    log_prob: Callable[..., Array]
    kl_divergence: Callable[[Params, Array, Array], Array] | None = None
    is_standard_normal: bool = False


def standard_normal(latent_dim: int) -> Prior:
    """Returns the prior N(0, I), which has no parameters.

    Args:
      latent_dim: number of latent dimensions L.
    """

    def sample(keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
        del params, posterior
        checks.keys(keys)
        return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,)))(keys)

    def log_prob(params: Params, z: Array, posterior: Encode | None = None) -> Array:
        del params, posterior
        return normal.log_normal(z)

    def kl_divergence(params: Params, mean: Array, logvar: Array) -> Array:
        del params
        return normal.kl_divergence(mean, logvar)

    def init(key: Key, x: Any) -> Params:
        del key, x
        return ()

    return Prior(init, sample, log_prob, kl_divergence, is_standard_normal=True)
