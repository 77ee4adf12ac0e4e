"""Variational autoencoders (VAEs), their objectives and parts.

A model is a few pure functions (`Vae`); an objective is one function (`elbo`).
"""

from genmod.vae.likelihoods import Likelihood, bernoulli, mean_logits
from genmod.vae.model import Vae, decode_mean, generate, make
from genmod.vae.objectives import article_loss, elbo
from genmod.vae.posteriors import kl_divergence
from genmod.vae.priors import Prior, standard_normal

__all__ = [
    "Likelihood",
    "Prior",
    "Vae",
    "article_loss",
    "bernoulli",
    "decode_mean",
    "elbo",
    "generate",
    "kl_divergence",
    "make",
    "mean_logits",
    "standard_normal",
]
