"""Objectives of a variational autoencoder.

An objective is a function

    (keys [B], params, batch) -> (loss [B], aux)

with one loss per image; aux is a dict of named numbers [B]. The batch are the images [B, H, W, C],
or what the model's `condition` splits into images and their condition.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from genmod import checks
from genmod.types import Array, Batch, Keys, Metrics, Objective
from genmod.vae.model import Vae, VaeParams


def elbo(model: Vae, *, beta: float | Array = 1.0) -> Objective:
    """Returns the negative evidence lower bound (ELBO) as an objective.

        loss = -log p(x | z) + beta * KL(q(z | x) || p(z)),    z ~ q(z | x), one draw

    The loss is in nats. With beta = 1 it is that of a VAE, with another weight that of a beta-VAE.
    The KL term is in closed form if the prior has a `kl_divergence`, as N(0, I) has; else it is
    estimated at the same draw, by log q(z | x) - log p(z).

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

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        reconstruction, kl = _terms(model, keys, params, batch)
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

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, _ = model.condition(batch)
        reconstruction, kl = _terms(model, keys, params, batch)
        num_pixels = math.prod(x.shape[1:])
        loss = reconstruction / num_pixels + kl_weight * 2 * kl / model.latent_dim
        return loss, {"reconstruction": reconstruction, "kl": kl}

    return objective


def log_weight(model: Vae) -> Callable[[Keys, VaeParams, Batch], Array]:
    """Returns the function that draws an importance weight per image.

        log w = log p(x, z) - log q(z | x),    z ~ q(z | x), one draw

    The function is `(keys [B], params, batch) -> log w [B]`, in nats. The mean of w over draws is
    p(x), and the mean of log w is the ELBO, so bounds and estimates of the likelihood rest on this
    function. All its densities are evaluated at the draw; no closed form is used. A hierarchical
    model with several layers of latents has a function of its own with this signature.

    Args:
      model: the VAE.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), equation 7.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> x = jnp.zeros((3, 6, 6, 1))
      >>> params = model.init(rng.root(0), x)
      >>> vae.log_weight(model)(rng.per_example(rng.root(1), 3), params, x).shape
      (3,)
    """

    def weight(keys: Keys, params: VaeParams, batch: Batch) -> Array:
        reconstruction, kl = _terms(model, keys, params, batch, closed_form=False)
        return -(reconstruction + kl)

    return weight


def _terms(
    model: Vae, keys: Keys, params: VaeParams, batch: Batch, *, closed_form: bool = True
) -> tuple[Array, Array]:
    """Returns the two terms of the negative ELBO at one draw, in nats.

    They are -log p(x|z) and the KL divergence, [B] each. The KL divergence is in closed form if the
    prior has one and `closed_form` is True, else estimated by log q(z|x) - log p(z).
    """
    x, c = model.condition(batch)
    parameters = model.encode(params, x, c)  # q(z | x) = N(mean, exp(logvar)), unless another
    z = model.sample(keys, *parameters)
    if closed_form and model.prior.kl_divergence is not None:
        reconstruction = -model.likelihood.log_prob(model.decode(params, z, c), x)
        return reconstruction, model.prior.kl_divergence(params.prior, *parameters)
    return terms_at(model, params, x, c, z, parameters)


def terms_at(
    model: Vae, params: VaeParams, x: Array, c: Any, z: Array, parameters: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Returns -log p(x|z) and log q(z|x) - log p(z) at latents z, [B] each, in nats.

    Args:
      model: the VAE.
      params: its parameters.
      x: images [B, H, W, C].
      c: their condition.
      z: latents [B, L].
      parameters: parameters of q(z|x), as `model.encode` returns them.
    """
    reconstruction = -model.likelihood.log_prob(model.decode(params, z, c), x)
    posterior = functools.partial(model.encode, params)
    log_ratio = model.posterior.log_prob(z, *parameters)
    log_ratio -= model.prior.log_prob(params.prior, z, posterior)
    return reconstruction, log_ratio
