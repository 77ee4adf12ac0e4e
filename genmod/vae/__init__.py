"""Variational autoencoders (VAEs), their objectives and parts.

A model is a few pure functions (`Vae`); an objective is one function (`elbo`).
"""

from genmod.vae.bounds import ciwae, iwae, miwae, piwae
from genmod.vae.densities import (
    categorical,
    continuous_bernoulli,
    discretised_logistic,
    gaussian,
    laplace,
)
from genmod.vae.likelihoods import Likelihood, bernoulli, mean_logits
from genmod.vae.model import Vae, VaeParams, decode_mean, generate, make, reconstruct
from genmod.vae.normal import kl_divergence, kl_normal, log_normal
from genmod.vae.objectives import article_loss, capacity, elbo, free_bits, log_weight
from genmod.vae.paths import interpolate, traverse
from genmod.vae.posteriors import Posterior, diagonal_normal
from genmod.vae.priors import Prior, standard_normal

__all__ = [
    "Likelihood",
    "Posterior",
    "Prior",
    "Vae",
    "VaeParams",
    "article_loss",
    "bernoulli",
    "capacity",
    "categorical",
    "ciwae",
    "continuous_bernoulli",
    "decode_mean",
    "diagonal_normal",
    "discretised_logistic",
    "elbo",
    "free_bits",
    "gaussian",
    "generate",
    "interpolate",
    "iwae",
    "kl_divergence",
    "kl_normal",
    "laplace",
    "log_normal",
    "log_weight",
    "make",
    "mean_logits",
    "miwae",
    "piwae",
    "reconstruct",
    "standard_normal",
    "traverse",
]
