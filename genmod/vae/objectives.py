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
import jax.numpy as jnp

from genmod import checks, devices, rng
from genmod.types import Array, Batch, Keys, Metrics, Objective
from genmod.vae import normal
from genmod.vae.model import Vae, VaeParams


def elbo(
    model: Vae, *, beta: float | Array = 1.0, num_samples: int = 1, closed_form: bool = True
) -> Objective:
    """Returns the negative evidence lower bound (ELBO) as an objective.

        loss = -log p(x | z) + beta * KL(q(z | x) || p(z)),    z ~ q(z | x)

    The loss is in nats. With beta = 1 it is that of a VAE, with another weight that of a beta-VAE.
    The KL term is in closed form if the prior has a `kl_divergence`, as N(0, I) has; else it is
    estimated at the same draw, by log q(z | x) - log p(z).

    Args:
      model: the VAE.
      beta: weight of the KL term, at least 0. A weight that follows a schedule is a `hyper` of
        `train.learner`, with `lambda hyper: vae.elbo(model, beta=hyper["beta"])`.
      num_samples: number of draws z over which the loss is averaged.
      closed_form: whether the KL term is in closed form where there is one; False estimates it.

    Returns:
      An objective, with one loss per image. Its aux holds the two terms `reconstruction` (the first
      one) and `kl` [B], both in nats and unweighted.

    Raises:
      ValueError: if beta is not a number of at least 0, or num_samples not positive; when called,
        if there is not one key for each image.

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
    check_weight("beta", beta)
    num_samples = checks.positive_integer("num_samples", num_samples)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        terms = functools.partial(_terms, model, closed_form=closed_form)
        if num_samples == 1:
            reconstruction, kl = terms(keys, params, batch)
        else:
            draws = jax.vmap(lambda number: terms(rng.at_step(keys, number), params, batch))
            reconstruction, kl = (term.mean(0) for term in draws(jnp.arange(num_samples)))
        return reconstruction + beta * kl, {"reconstruction": reconstruction, "kl": kl}

    return objective


def capacity(model: Vae, *, weight: float | Array, nats: float | Array) -> Objective:
    """Returns the objective that holds the KL divergence at a capacity.

        loss = -log p(x | z) + weight * |KL(q(z | x) || p(z)) - nats|,    z ~ q(z | x), one draw

    The capacity usually rises in training: it is then a `hyper` of `train.learner`, such as
    `optax.linear_schedule(0.0, 25.0, num_steps)`.

    Args:
      model: the VAE.
      weight: weight of the distance from the capacity (gamma in the paper), at least 0.
      nats: the capacity C, in nats, at least 0.

    Returns:
      An objective, with one loss per image. Its aux is that of `elbo`.

    Raises:
      ValueError: if a number is below 0; when called, if there is not one key for each image.

    References:
      Burgess et al., Understanding disentangling in beta-VAE, 2018 (arXiv:1804.03599), equation 8.
    """
    check_weight("weight", weight)
    check_weight("nats", nats)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        reconstruction, kl = _terms(model, keys, params, batch)
        loss = reconstruction + weight * jnp.abs(kl - nats)
        return loss, {"reconstruction": reconstruction, "kl": kl}

    return objective


def free_bits(
    model: Vae, *, nats: float | Array, num_groups: int | None = None, whole_batch: bool = False
) -> Objective:
    """Returns the negative ELBO with a KL divergence that is free up to some nats.

        loss = -log p(x | z) + sum_g max(nats, KL_g),    z ~ q(z | x), one draw

    KL_g is the KL divergence of group g of the latents, of an image by itself; with `whole_batch`
    it is the mean over the batch, as in the paper. A group below its free nats has no gradient, so
    that its latents are not pulled to the prior before the decoder uses them.

    Args:
      model: the VAE, with the posterior `diagonal_normal` and the prior N(0, I).
      nats: free nats of each group, at least 0.
      num_groups: number of groups of as many consecutive latents; one for each latent if None.
      whole_batch: whether the mean over the batch is compared with the free nats. The objective
        then looks at its whole batch (`train.learner(whole_batch=True)`).

    Returns:
      An objective, with one loss per image. Its aux is that of `elbo`, with the whole divergence.

    Raises:
      ValueError: if nats is below 0, the latents cannot be divided into so many groups, or the
        divergence of single latents is not known; when called, if there is not one key for each
        image.

    References:
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016
      (arXiv:1606.04934), appendix C.8.
    """
    check_weight("nats", nats)
    num = model.latent_dim if num_groups is None else num_groups
    if model.latent_dim % checks.positive_integer("num_groups", num):
        raise ValueError(
            f"num_groups must divide the {model.latent_dim} latents into equal groups, got {num}"
        )
    if not (model.posterior.is_diagonal_normal and model.prior.is_standard_normal):
        raise ValueError(
            "free_bits needs the divergence of each latent, which is known of the posterior "
            "diagonal_normal and the prior standard_normal alone, got others"
        )

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        mean, logvar = model.encode(params, x, c)
        z = model.sample(keys, mean, logvar)
        moments = mean, logvar
        reconstruction, kl = terms_at(model, params, x, c, z, moments, closed_form=True)
        each = normal.kl_normal(mean, logvar, 0.0, 0.0)
        groups = each.reshape(len(each), num, -1).sum(-1)
        if whole_batch:
            groups = jnp.broadcast_to(groups.mean(0), groups.shape)
        loss = reconstruction + jnp.maximum(groups, nats).sum(-1)
        return loss, {"reconstruction": reconstruction, "kl": kl}

    return of_whole_batch("free_bits", objective) if whole_batch else objective


def of_whole_batch(name: str, objective: Objective) -> Objective:
    """Returns an objective that looks at its whole batch, and refuses microbatches."""

    def of_batch(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        devices.refuse_microbatch(f"{name} compares the examples")
        return objective(keys, params, batch)

    of_batch.whole_batch = True  # pyrefly: ignore[missing-attribute]
    return of_batch


def check_weight(name: str, value: float | Array) -> None:
    """Refuses a weight below 0. A traced value, such as a schedule's, is not checked."""
    if not isinstance(value, jax.core.Tracer):
        checks.not_negative(name, value)


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
    check_weight("kl_weight", kl_weight)

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
    function. All its densities are evaluated at the draw; no closed form is used. It serves
    hierarchies too, whose draw is that of all layers.

    Args:
      model: the VAE.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), section 3.

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
    z, log_q = drawn(model, keys, parameters)
    return terms_at(model, params, x, c, z, parameters, log_q=log_q, closed_form=closed_form)


def drawn(model: Vae, keys: Keys, parameters: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """Draws latents z [B, L] of q(z|x), with log q(z|x) [B] where it is found on the way."""
    if model.posterior.draw is None:
        return model.sample(keys, *parameters), None
    return model.posterior.draw(keys, *parameters)


def terms_at(
    model: Vae,
    params: VaeParams,
    x: Array,
    c: Any,
    z: Array,
    parameters: tuple[Array, ...],
    *,
    log_q: Array | None = None,
    closed_form: bool = False,
) -> tuple[Array, Array]:
    """Returns -log p(x|z) and log q(z|x) - log p(z) at latents z, [B] each, in nats.

    With `closed_form` the second is the KL divergence, if the prior has one in closed form.

    Args:
      model: the VAE.
      params: its parameters.
      x: images [B, H, W, C].
      c: their condition.
      z: latents [B, L].
      parameters: parameters of q(z|x), as `model.encode` returns them.
      log_q: log q(z|x) [B] if it is known.
      closed_form: whether the KL divergence is in closed form where there is one.
    """
    reconstruction = -model.likelihood.log_prob(model.decode(params, z, c), x)
    if closed_form and model.prior.kl_divergence is not None:
        return reconstruction, model.prior.kl_divergence(params.prior, *parameters)
    posterior = functools.partial(model.encode, params)
    log_ratio = model.posterior.log_prob(z, *parameters) if log_q is None else log_q
    log_ratio -= model.prior.log_prob(params.prior, z, posterior)
    return reconstruction, log_ratio
