"""Variational autoencoders: a model is four pure functions, an objective is one."""

from genmod.vae.likelihoods import Likelihood, bernoulli, mean_logits
from genmod.vae.model import Vae, generate, images, make
from genmod.vae.objectives import article_loss, elbo
from genmod.vae.posteriors import kl_divergence
from genmod.vae.priors import Prior, standard_normal

__all__ = [
    "Likelihood",
    "Prior",
    "Vae",
    "article_loss",
    "bernoulli",
    "elbo",
    "generate",
    "images",
    "kl_divergence",
    "make",
    "mean_logits",
    "standard_normal",
]
