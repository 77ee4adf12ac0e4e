"""Variational autoencoders (VAEs), their objectives and parts.

A model is a few pure functions (`Vae`); an objective is one function (`elbo`).
"""

from genmod.vae.aggregate import beta_tc, dip, mmd, optimal_sigma
from genmod.vae.bounds import ciwae, iwae, miwae, piwae
from genmod.vae.chain import chain
from genmod.vae.code_priors import code_prior
from genmod.vae.densities import (
    categorical,
    continuous_bernoulli,
    discretised_logistic,
    gaussian,
    laplace,
)
from genmod.vae.ex_post import GaussianMixture, aggregated_posterior, fit_gaussian_mixture, tempered
from genmod.vae.flows import Flow, composed, coupling, inverse_autoregressive, planar
from genmod.vae.games import adversarial, factor, vae_gan
from genmod.vae.hierarchy import layer_terms, layered_elbo
from genmod.vae.ladder import Rung, ladder
from genmod.vae.likelihoods import Likelihood, bernoulli, mean_logits
from genmod.vae.model import Vae, VaeParams, decode_mean, generate, make, reconstruct
from genmod.vae.normal import kl_divergence, kl_normal, log_normal
from genmod.vae.objectives import article_loss, capacity, elbo, free_bits, log_weight
from genmod.vae.paths import interpolate, traverse
from genmod.vae.posteriors import Posterior, diagonal_normal, flow_posterior, full_normal
from genmod.vae.priors import Prior, flow_prior, mixture, standard_normal, vampprior
from genmod.vae.quantised import code_frequencies, perplexity, quantised
from genmod.vae.regularised import regularised
from genmod.vae.relaxed import make_categorical
from genmod.vae.schedules import balanced, cyclical
from genmod.vae.semi_supervised import semi_supervised
from genmod.vae.spheres import uniform_sphere, von_mises_fisher

__all__ = [
    "Flow",
    "GaussianMixture",
    "Likelihood",
    "Posterior",
    "Prior",
    "Rung",
    "Vae",
    "VaeParams",
    "adversarial",
    "aggregated_posterior",
    "article_loss",
    "balanced",
    "bernoulli",
    "beta_tc",
    "capacity",
    "categorical",
    "chain",
    "ciwae",
    "code_frequencies",
    "code_prior",
    "composed",
    "continuous_bernoulli",
    "coupling",
    "cyclical",
    "decode_mean",
    "diagonal_normal",
    "dip",
    "discretised_logistic",
    "elbo",
    "factor",
    "fit_gaussian_mixture",
    "flow_posterior",
    "flow_prior",
    "free_bits",
    "full_normal",
    "gaussian",
    "generate",
    "interpolate",
    "inverse_autoregressive",
    "iwae",
    "kl_divergence",
    "kl_normal",
    "ladder",
    "laplace",
    "layer_terms",
    "layered_elbo",
    "log_normal",
    "log_weight",
    "make",
    "make_categorical",
    "mean_logits",
    "miwae",
    "mixture",
    "mmd",
    "optimal_sigma",
    "perplexity",
    "piwae",
    "planar",
    "quantised",
    "reconstruct",
    "regularised",
    "semi_supervised",
    "standard_normal",
    "tempered",
    "traverse",
    "uniform_sphere",
    "vae_gan",
    "vampprior",
    "von_mises_fisher",
]
