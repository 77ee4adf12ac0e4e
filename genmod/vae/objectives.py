"""Objectives of a variational autoencoder.

An objective is a function

    (keys [B], params, x [B, H, W, C]) -> (loss [B], aux)

with one loss per image; aux is a dict of named numbers [B].
"""

import math

import jax

from genmod import checks
from genmod.types import Array, Keys, Metrics, Objective
from genmod.vae.model import Vae, VaeParams


def elbo(model: Vae, *, beta: float | Array = 1.0) -> Objective:
    """Returns the negative evidence lower bound (ELBO) as an objective.

        loss = -log p(x | z) + beta * KL(q(z | x) || p(z)),    z ~ q(z | x), one draw

    The loss is in nats. With beta = 1 it is that of a VAE, with another weight that of a beta-VAE.

    Args:
      model: the VAE.
      beta: weight of the KL term, at least 0. A weight that follows a schedule is a `hyper` of
        `train.learner`, with `lambda hyper: vae.elbo(model, beta=hyper["beta"])`.

    Returns:
      An objective, with one loss per image. Its aux holds the two terms `reconstruction` (the first
      one) and `kl` [B], both in nats and unweighted.

    Raises:
      ValueError: if beta is not a number of at least 0; when called, if there is not one key for
        each image.

    References:
      Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114), equation 10.
      Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
      Framework, ICLR 2017 (https://openreview.net/forum?id=Sy2fzU9gl), equation 4.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> x = jnp.zeros((3, 6, 6, 1))
      >>> params = model.init(rng.root(0), x)
      >>> loss, aux = vae.elbo(model)(rng.per_example(rng.root(1), 3), params, x)
      >>> loss.shape, sorted(aux)
      ((3,), ['kl', 'reconstruction'])
    """
    if not isinstance(beta, jax.core.Tracer):
        checks.not_negative("beta", beta)

    def objective(keys: Keys, params: VaeParams, x: Array) -> tuple[Array, Metrics]:
        mean, logvar = model.encode(params, x)  # q(z | x) = N(mean, exp(logvar))
        z = model.sample(keys, mean, logvar)
        reconstruction = -model.likelihood.log_prob(model.decode(params, z), x)
        kl = model.prior.kl_divergence(params.prior, mean, logvar)
        return reconstruction + beta * kl, {"reconstruction": reconstruction, "kl": kl}

    return objective


def article_loss(model: Vae, *, kl_weight: float | Array = 1e-4) -> Objective:
    """Returns the loss of *Beginners Intro to Generative Modeling*.

        loss = mean over pixels of the cross entropy
             + kl_weight * mean over latents of -(1 + logvar - mean^2 - exp(logvar))

    Unlike the ELBO it is not a bound on anything. The cross entropy is averaged over the pixels,
    not summed. The other mean is twice the KL divergence of one latent. Compared with the ELBO per
    pixel, the KL term weighs kl_weight * 2 * pixels / latents times as much: 0.04 on MNIST with 4
    latents and the article's weight of 1e-4.

    Args:
      model: the VAE.
      kl_weight: weight of the KL term, at least 0.

    Returns:
      An objective, with one loss per image. Its aux holds `reconstruction` and `kl` [B] in nats,
      the same as that of `elbo`, so that runs of both can be compared.

    Raises:
      ValueError: if kl_weight is not a number of at least 0; when called, if there is not one key
        for each image.
    """
    if not isinstance(kl_weight, jax.core.Tracer):
        checks.not_negative("kl_weight", kl_weight)

    def objective(keys: Keys, params: VaeParams, x: Array) -> tuple[Array, Metrics]:
        mean, logvar = model.encode(params, x)
        z = model.sample(keys, mean, logvar)
        reconstruction = -model.likelihood.log_prob(model.decode(params, z), x)
        kl = model.prior.kl_divergence(params.prior, mean, logvar)
        num_pixels, num_latents = math.prod(x.shape[1:]), mean.shape[1]
        loss = reconstruction / num_pixels + kl_weight * 2 * kl / num_latents
        return loss, {"reconstruction": reconstruction, "kl": kl}

    return objective
