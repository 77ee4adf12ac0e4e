"""The variational autoencoder as pure functions."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key, Keys, Net, Params
from genmod.vae import posteriors
from genmod.vae.likelihoods import Likelihood, bernoulli
from genmod.vae.priors import Prior, standard_normal


class VaeParams(NamedTuple):
    """Parameters of a VAE.

    Attributes:
      encoder: of q(z|x).
      decoder: of p(x|z).
      prior: of p(z); `()` for N(0, I).
    """

    encoder: Params
    decoder: Params
    prior: Params


@dataclasses.dataclass(frozen=True)
class Init:
    """A function `(key, x) -> params` that knows which x the model is for.

    `train.learner` is given this function alone, whatever the objective, and finds the check here.

    Attributes:
      function: the function.
      check: `x -> None`, a refusal (ValueError) by the values of x.
    """

    function: Callable[[Key, Array], VaeParams]
    check: Callable[[Array], None]

    def __call__(self, key: Key, x: Array) -> VaeParams:
        """The parameters to begin with."""
        return self.function(key, x)


class Vae(NamedTuple):
    """A variational autoencoder (Kingma & Welling 2014).

    Attributes:
      init: `(key, x [B, H, W, C]) -> VaeParams`, after checking that all shapes fit. Its attribute
        `check` is a function `x -> None` that refuses images outside the likelihood's `support`,
        where values can be seen: `train.run` calls it with its first batch.
      encode: `(params, x [B, H, W, C]) -> (mean [B, L], logvar [B, L])`.
      sample: `(keys [B], mean [B, L], logvar [B, L]) -> z [B, L]`, the reparametrised draw.
      decode: `(params, z [B, L]) -> output`, the parameters of the likelihood: logits
        [B, H, W, C] for `bernoulli`.
      likelihood: p(x|z) as a function of that output.
      prior: p(z).
    """

    init: Init
    encode: Callable[[VaeParams, Array], tuple[Array, Array]]
    sample: Callable[[Keys, Array, Array], Array]
    decode: Callable[[VaeParams, Array], Array]
    likelihood: Likelihood
    prior: Prior


def make(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    likelihood: Likelihood = bernoulli,
    prior: Callable[[int], Prior] = standard_normal,
) -> Vae:
    """A VAE from two networks.

    Args:
      encoder: [B, H, W, C] -> [B, 2 * latent_dim], the posterior's means, then its log-variances.
      decoder: [B, latent_dim] -> the parameters of the likelihood.
      latent_dim: number of latent dimensions L.
      likelihood: p(x|z) from the decoder's output.
      prior: `latent_dim -> Prior`.

    Raises:
      ValueError: if latent_dim is not positive; on use, if a network's output has another shape
        than the one above; when training begins, if images lie outside the likelihood's support.
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    p_z = prior(latent_dim)

    def split(moments: Array, x: Array) -> tuple[Array, Array]:
        expected = (x.shape[0], 2 * latent_dim)
        if moments.shape != expected:
            raise ValueError(
                f"the encoder must put out [B, 2 * latent_dim] = {expected} for images "
                f"{x.shape}, got {moments.shape}"
            )
        return moments[:, :latent_dim], moments[:, latent_dim:]

    def init(key: Key, x: Array) -> VaeParams:
        z = jnp.zeros((x.shape[0], latent_dim))
        params = VaeParams(
            encoder=encoder.init(rng.stream(key, "encoder"), x),
            decoder=decoder.init(rng.stream(key, "decoder"), z),
            prior=p_z.init(rng.stream(key, "prior")),
        )
        jax.eval_shape(encode, params, x)
        jax.eval_shape(lambda: likelihood.log_prob(decode(params, z), x))
        return params

    def encode(params: VaeParams, x: Array) -> tuple[Array, Array]:
        return split(encoder.apply(params.encoder, x), x)

    def decode(params: VaeParams, z: Array) -> Array:
        if z.ndim != 2 or z.shape[1] != latent_dim:
            raise ValueError(f"z must have the shape [B, {latent_dim}], got {z.shape}")
        return decoder.apply(params.decoder, z)

    def check(x: Array) -> None:
        if likelihood.support is not None:
            checks.values_within("images", x, likelihood.support, "the likelihood")

    return Vae(Init(init, check), encode, posteriors.sample, decode, likelihood, p_z)


def decode_mean(model: Vae) -> Callable[[VaeParams, Array], Array]:
    """What latents look like: `(params, z [B, L]) -> images [B, H, W, C]`, the mean of p(x|z)."""
    return lambda params, z: model.likelihood.mean(model.decode(params, z))


def generate(model: Vae) -> Callable[[Keys, VaeParams], Array]:
    """A sampler `(keys [B], params) -> images [B, H, W, C]`: the mean of p(x|z) at z ~ p(z)."""
    return lambda keys, params: decode_mean(model)(params, model.prior.sample(keys, params.prior))
