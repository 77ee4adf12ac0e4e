"""Objectives `(keys [B], params, x [B, H, W, C]) -> (loss [B], aux)`, made of the same parts."""

import math
from typing import NamedTuple

import jax

from genmod import checks
from genmod.types import Array, Keys, Metrics, Objective
from genmod.vae.model import Vae, VaeParams


class Terms(NamedTuple):
    """What a VAE's losses are made of.

    Attributes:
      reconstruction: -log p(x|z) at one draw z ~ q(z|x), [B], nats.
      kl: KL(q(z|x) || p(z)), [B], nats.
      num_pixels: number of values in an image.
      latent_dim: number of latent dimensions.
    """

    reconstruction: Array
    kl: Array
    num_pixels: int
    latent_dim: int


def terms(model: Vae, keys: Keys, params: VaeParams, x: Array) -> Terms:
    """The two terms of the evidence lower bound, from one draw of the posterior per example."""
    mean, logvar = model.encode(params, x)
    output = model.decode(params, model.sample(keys, mean, logvar))
    return Terms(
        reconstruction=-model.likelihood.log_prob(output, x),
        kl=model.prior.kl_divergence(params.prior, mean, logvar),
        num_pixels=math.prod(x.shape[1:]),
        latent_dim=mean.shape[1],
    )


def elbo(model: Vae, *, beta: float | Array = 1.0) -> Objective:
    """The negative evidence lower bound in nats: -log p(x|z) + beta * KL(q(z|x) || p(z)).

    Kingma & Welling (2014), equation 10, with one draw per example; with another beta than 1 the
    beta-VAE of Higgins et al. (2017), equation 4.

    Args:
      model: the VAE.
      beta: weight of the KL term, at least 0. One that follows a schedule is `hyper` of
        `train.learner`, with `lambda hyper: vae.elbo(model, beta=hyper["beta"])`.

    Returns:
      An objective whose aux holds `reconstruction` and `kl` [B], both in nats and unweighted.

    Raises:
      ValueError: if beta is no number of at least 0; on use, if keys are not one per example.
    """
    if not isinstance(beta, jax.core.Tracer):
        checks.not_negative("beta", beta)

    def objective(keys: Keys, params: VaeParams, x: Array) -> tuple[Array, Metrics]:
        reconstruction, kl, *_ = terms(model, keys, params, x)
        return reconstruction + beta * kl, {"reconstruction": reconstruction, "kl": kl}

    return objective


def article_loss(model: Vae, *, kl_weight: float | Array = 1e-4) -> Objective:
    """The loss of *Beginners Intro to Generative Modeling*, which is not a bound on anything.

    The cross entropy is averaged over the pixels, not summed, and the KL term is the mean over the
    latents of -(1 + logvar - mean^2 - exp(logvar)), twice the KL divergence of one latent, times
    1e-4. Compared with the ELBO per pixel its KL term weighs kl_weight * 2 * pixels / latents
    times as much: 0.04 on MNIST with 4 latents.

    Args:
      model: the VAE.
      kl_weight: weight of the KL term, at least 0.

    Returns:
      An objective whose aux holds `reconstruction` and `kl` [B] in nats, as `elbo` gives them, so
      that the runs of both can be compared.

    Raises:
      ValueError: if kl_weight is no number of at least 0; on use, if keys are not one per example.
    """
    if not isinstance(kl_weight, jax.core.Tracer):
        checks.not_negative("kl_weight", kl_weight)

    def objective(keys: Keys, params: VaeParams, x: Array) -> tuple[Array, Metrics]:
        reconstruction, kl, num_pixels, latent_dim = terms(model, keys, params, x)
        loss = reconstruction / num_pixels + kl_weight * 2 * kl / latent_dim
        return loss, {"reconstruction": reconstruction, "kl": kl}

    return objective
