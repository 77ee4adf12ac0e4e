"""The variational autoencoder (VAE), as pure functions."""

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
      encoder: parameters of q(z|x).
      decoder: parameters of p(x|z).
      prior: parameters of p(z); `()` for N(0, I).
    """

    encoder: Params
    decoder: Params
    prior: Params


@dataclasses.dataclass(frozen=True)
class Init:
    """Initial parameters `(key, x) -> params`, with a check.

    Of a model, `train.learner` takes only this function and an objective. So the check of the
    images' values is an attribute of the function.

    Attributes:
      function: the function.
      check: function `x -> None` that raises ValueError if the values of x are out of range.
    """

    function: Callable[[Key, Array], VaeParams]
    check: Callable[[Array], None]

    def __call__(self, key: Key, x: Array) -> VaeParams:
        """Returns the initial parameters."""
        return self.function(key, x)


class Vae(NamedTuple):
    """Variational autoencoder, as pure functions.

    Attributes:
      init: initial parameters, `(key, x [B, H, W, C]) -> VaeParams`, after a check that all shapes
        fit. Its attribute `check` is a function `x -> None` that refuses images outside the
        likelihood's `support`. It needs concrete values: `train.run` calls it with the first batch.
      encode: the approximate posterior q(z|x), `(params, x [B, H, W, C]) -> (mean [B, L],
        logvar [B, L])`.
      sample: reparametrised draw from q(z|x), `(keys [B], mean [B, L], logvar [B, L]) ->
        z [B, L]`.
      decode: parameters of the likelihood, `(params, z [B, L]) -> output`; for `bernoulli` the
        output are logits [B, H, W, C].
      likelihood: p(x|z), as a function of that output.
      prior: p(z).
      latent_dim: number of latent dimensions L.

    References:
      Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114).
    """

    init: Init
    encode: Callable[[VaeParams, Array], tuple[Array, Array]]
    sample: Callable[[Keys, Array, Array], Array]
    decode: Callable[[VaeParams, Array], Array]
    likelihood: Likelihood
    prior: Prior
    latent_dim: int


def make(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    likelihood: Likelihood = bernoulli,
    prior: Callable[[int], Prior] = standard_normal,
) -> Vae:
    """Makes a VAE from two networks.

    Args:
      encoder: network [B, H, W, C] -> [B, 2 * latent_dim]; its output holds the posterior's means,
        then the log-variances.
      decoder: network [B, latent_dim] -> the parameters of the likelihood.
      latent_dim: number of latent dimensions L.
      likelihood: p(x|z), as a function of the decoder's output.
      prior: p(z), as a function `latent_dim -> Prior`.

    Raises:
      ValueError: if latent_dim is not positive; when called, if a network's output does not have
        the shape above; when training begins, if images lie outside the likelihood's support.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> encoder = nets.mlp((8,), 4, heads=2)
      >>> decoder = nets.mlp((8,), (6, 6, 1))
      >>> model = vae.make(encoder, decoder, latent_dim=2)
      >>> params = model.init(rng.root(0), jnp.zeros((3, 6, 6, 1)))
      >>> mean, logvar = model.encode(params, jnp.zeros((3, 6, 6, 1)))
      >>> mean.shape, logvar.shape
      ((3, 2), (3, 2))
      >>> vae.generate(model)(rng.per_example(rng.root(1), 5), params).shape
      (5, 6, 6, 1)
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    p_z = prior(latent_dim)

    def split(moments: Array, x: Array) -> tuple[Array, Array]:
        expected = (x.shape[0], 2 * latent_dim)
        if moments.shape != expected:
            raise ValueError(
                f"the encoder must return [B, 2 * latent_dim] = {expected} for images "
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

    return Vae(Init(init, check), encode, posteriors.sample, decode, likelihood, p_z, latent_dim)


def decode_mean(model: Vae) -> Callable[[VaeParams, Array], Array]:
    """Returns the function that decodes latents to mean images.

    The function is `(params, z [B, L]) -> images [B, H, W, C]`. An image is the mean of p(x|z).
    """
    return lambda params, z: model.likelihood.mean(model.decode(params, z))


def generate(model: Vae) -> Callable[[Keys, VaeParams], Array]:
    """Returns a sampler of the model's images.

    The sampler is `(keys [B], params) -> images [B, H, W, C]`. An image is the mean of p(x|z) at a
    draw z ~ p(z).
    """
    return lambda keys, params: decode_mean(model)(params, model.prior.sample(keys, params.prior))
