"""The variational autoencoder (VAE), as pure functions."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Batch, Condition, Key, Keys, Net, Params
from genmod.vae import normal, spheres
from genmod.vae.likelihoods import Likelihood, bernoulli
from genmod.vae.posteriors import Posterior, diagonal_normal
from genmod.vae.priors import Prior, standard_normal


class VaeParams(NamedTuple):
    """Parameters of a VAE.

    Attributes:
      encoder: parameters of q(z|x): those of the encoder, or `EncoderParams`.
      decoder: parameters of p(x|z).
      prior: parameters of p(z); `()` for N(0, I).
    """

    encoder: Params
    decoder: Params
    prior: Params


class EncoderParams(NamedTuple):
    """Parameters of q(z|x) where the posterior has some that all examples share.

    Attributes:
      network: parameters of the encoder.
      posterior: those of the posterior, such as the networks of a flow.
    """

    network: Params
    posterior: Params


@dataclasses.dataclass(frozen=True)
class Init:
    """Initial parameters `(key, batch) -> params`, with a check.

    Of a model, `train.learner` takes only this function and an objective. So the check of the
    images' values is an attribute of the function.

    Attributes:
      function: the function.
      check: function `batch -> None` that raises ValueError if the values of the images are out of
        range, or a network refuses those of the condition.
    """

    function: Callable[[Key, Batch], Params]
    check: Callable[[Batch], None]

    def __call__(self, key: Key, batch: Batch) -> Params:
        """Returns the initial parameters."""
        return self.function(key, batch)


class Vae(NamedTuple):
    """Variational autoencoder, as pure functions.

    A condition c is a tree of arrays [B, ...], such as labels [B]; it is None for a VAE made
    without `condition`. It goes to each network that takes one.

    Attributes:
      init: initial parameters, `(key, batch) -> VaeParams`, after a check that all shapes fit. Its
        attribute `check` is a function `batch -> None` that refuses images outside the likelihood's
        `support`. It needs concrete values: `train.run` calls it with the first batch.
      encode: the approximate posterior q(z|x), `(params, x [B, H, W, C], c=None) -> (mean [B, L],
        logvar [B, L])`, or other parameters of another `posterior`.
      sample: reparametrised draw from q(z|x), `(keys [B], mean [B, L], logvar [B, L]) ->
        z [B, L]`.
      decode: parameters of the likelihood, `(params, z [B, L], c=None) -> output`; for `bernoulli`
        the output are logits [B, H, W, C].
      likelihood: p(x|z), as a function of that output.
      prior: p(z). Its `kl_divergence` is None if it does not fit the posterior.
      latent_dim: number of latent dimensions L.
      posterior: q(z|x), as a function of the encoder's output.
      condition: images and condition of a batch, `batch -> (x [B, H, W, C], c)`, after a check of
        both; (batch, None) for a VAE made without `condition`.

    References:
      Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114).
      Sohn et al., Learning Structured Output Representation using Deep Conditional Generative
      Models, NeurIPS 2015.
    """

    init: Init
    encode: Callable[..., tuple[Array, ...]]
    sample: Callable[..., Array]
    decode: Callable[..., Any]
    likelihood: Likelihood
    prior: Prior
    latent_dim: int
    posterior: Posterior
    condition: Condition


def make(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    likelihood: Likelihood = bernoulli,
    prior: Callable[[int], Prior] = standard_normal,
    posterior: Callable[[int], Posterior] = diagonal_normal,
    condition: Condition | None = None,
) -> Vae:
    """Makes a VAE from two networks.

    Args:
      encoder: network [B, H, W, C] -> the parameters of the posterior; for `diagonal_normal` its
        output [B, 2 * latent_dim] holds the means, then the log-variances.
      decoder: network [B, latent_dim] -> the parameters of the likelihood.
      latent_dim: number of latent dimensions L.
      likelihood: p(x|z), as a function of the decoder's output.
      prior: p(z), as a function `latent_dim -> Prior`. Its `kl_divergence` is of a diagonal
        Gaussian, and is used with a posterior whose `log_prob` is `vae.log_normal`; on the sphere
        it is of `von_mises_fisher`.
      posterior: q(z|x), as a function `latent_dim -> Posterior`.
      condition: function `batch -> (x, c)` that returns the images of a batch and the condition c,
        a tree of arrays [B, ...]. It makes the VAE conditional: p(x|z, c) and q(z|x, c). None for
        batches that are the images.

    Raises:
      ValueError: if latent_dim is not positive, the prior and the posterior differ in their latent
        dimensions or only one is on the sphere, or `condition` is given but no network takes one,
        or missing but one needs it; when called, if the batch is not as above, a condition is
        missing, not expected or not of B examples, or a network, the likelihood, the posterior or
        the prior returns another shape than theirs; when training begins, if images lie outside the
        likelihood's support.

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

      A conditional VAE, of images and labels:

      >>> model = vae.make(
      ...     nets.conditional(encoder, 10),
      ...     nets.conditional(decoder, 10),
      ...     latent_dim=2,
      ...     condition=lambda batch: (batch["image"], batch["label"]),
      ... )
      >>> batch = {"image": jnp.zeros((3, 6, 6, 1)), "label": jnp.array([7, 0, 9])}
      >>> params = model.init(rng.root(2), batch)
      >>> sevens = jnp.full(5, 7)
      >>> vae.generate(model)(rng.per_example(rng.root(3), 5), params, sevens).shape
      (5, 6, 6, 1)
    """
    latent_dim = checks.positive_integer("latent_dim", latent_dim)
    p_z, q_z = prior(latent_dim), posterior(latent_dim)
    _check_latents(latent_dim, p_z, q_z)
    if q_z.log_prob not in (normal.log_normal, spheres.log_von_mises_fisher):
        p_z = p_z._replace(kl_divergence=None)

    def initial(key: Key, x: Array, c: Any) -> VaeParams:
        z = jnp.zeros((x.shape[0], latent_dim))
        network = encoder.initial(rng.stream(key, "encoder"), x, c)
        if q_z.init is not None:
            network = EncoderParams(network, q_z.init(rng.stream(key, "posterior")))
        return VaeParams(
            encoder=network,
            decoder=decoder.initial(rng.stream(key, "decoder"), z, c),
            prior=p_z.init(rng.stream(key, "prior"), x),
        )

    def encode(params: VaeParams, x: Array, c: Any) -> tuple[Array, ...]:
        network, *shared = (params.encoder,) if q_z.init is None else params.encoder
        output = encoder(network, x, c)
        checks.examples("the encoder's output", output, len(x))
        return q_z.split(output, *shared)

    def decode(params: VaeParams, z: Array, c: Any) -> Any:
        return decoder(params.decoder, z, c)

    return assembled(
        initial,
        encode,
        q_z.sample,
        decode,
        likelihood=likelihood,
        prior=p_z,
        posterior=q_z,
        latent_dim=latent_dim,
        networks={"encoder": encoder, "decoder": decoder},
        condition=condition,
        maker="vae.make",
    )


def assembled(
    initial: Callable[[Key, Array, Any], VaeParams],
    encode: Callable[[VaeParams, Array, Any], tuple[Any, ...]],
    sample: Callable[..., Array],
    decode: Callable[[VaeParams, Array, Any], Any],
    *,
    likelihood: Likelihood,
    prior: Prior,
    posterior: Posterior,
    latent_dim: int,
    networks: Mapping[str, Net],
    condition: Condition | None,
    maker: str,
) -> Vae:
    """Returns a VAE of functions whose arguments are checked here.

    Args:
      initial: initial parameters, `(key, x, c) -> VaeParams`.
      encode: parameters of q(z|x), `(params, x, c) -> parameters`.
      sample: reparametrised draw from q(z|x), `(keys [B], *parameters) -> z [B, L]`.
      decode: parameters of the likelihood, `(params, z [B, L], c) -> output`.
      likelihood: p(x|z), as a function of that output.
      prior: p(z).
      posterior: q(z|x), as a function of its parameters.
      latent_dim: number of latents L.
      networks: the "encoder" and the "decoder" that get the condition.
      condition: function `batch -> (x, c)`; None for batches that are the images.
      maker: name of the function that makes such models, for messages.
    """
    checks.networks(networks, condition)

    def split(batch: Batch) -> tuple[Array, Any]:
        return checks.images_and_condition(batch, condition, maker=maker)

    def check_condition(name: str, c: Any, size: int) -> None:
        conditional = condition is not None
        networks[name].check_condition(name, c, size, conditional=conditional)

    def checked_initial(key: Key, x: Array, c: Any) -> VaeParams:
        for name in networks:
            check_condition(name, c, len(x))
        return initial(key, x, c)

    def init(key: Key, batch: Batch) -> VaeParams:
        x, c = split(batch)
        params = checked_initial(key, x, c)
        with devices.batch_statistics() as layers:
            # The lambda is new, so that JAX traces the networks and does not remember their shapes.
            jax.eval_shape(lambda *inputs: _check_shapes(model, *inputs), key, params, x, c)
        check_no_statistics(layers)
        return params

    def checked_encode(params: VaeParams, x: Array, c: Any = None) -> tuple[Any, ...]:
        check_floating(x)
        check_condition("encoder", c, len(x))
        return encode(params, x, c)

    def checked_decode(params: VaeParams, z: Array, c: Any = None) -> Any:
        if z.ndim != 2 or z.shape[1] != latent_dim:
            raise ValueError(f"z must have the shape [B, {latent_dim}], got {z.shape}")
        check_condition("decoder", c, len(z))
        return decode(params, z, c)

    model = Vae(
        Init(init, _check_of(split, likelihood, checked_initial)),
        checked_encode,
        sample,
        checked_decode,
        likelihood,
        prior,
        latent_dim,
        posterior,
        split,
    )
    return model


def check_floating(x: Array) -> None:
    """Refuses images as files hold them."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(
            "images to encode must be floating, as prepare=data.unit_interval makes them, got "
            f"{checks.described(x)}"
        )


def check_no_statistics(layers: Sequence[str]) -> None:
    """Refuses networks with layers that use the statistics of their batch."""
    if layers:
        raise ValueError(
            "the networks of a VAE must not use the statistics of their batch "
            f"({', '.join(dict.fromkeys(layers))}): the bound of an image, and each sample, would "
            "depend on the others. norm='group' and norm='layer' do not"
        )


def _check_latents(latent_dim: int, prior: Prior, posterior: Posterior) -> None:
    """Refuses a prior and a posterior of different latents, as far as they tell."""
    dims = [latent_dim if own.latent_dim is None else own.latent_dim for own in (prior, posterior)]
    if dims != [latent_dim, latent_dim]:
        raise ValueError(
            f"the prior and the posterior must have latent_dim = {latent_dim} dimensions, got a "
            f"prior of {dims[0]} and a posterior of {dims[1]}"
        )
    if prior.is_on_sphere != posterior.is_on_sphere:
        where = [
            "on the sphere" if own else "in the whole space"
            for own in (prior.is_on_sphere, posterior.is_on_sphere)
        ]
        raise ValueError(
            "the prior and the posterior must both be on the sphere, as uniform_sphere and "
            f"von_mises_fisher are, or neither, got a prior {where[0]} and a posterior {where[1]}"
        )


def _check_of(
    split: Condition, likelihood: Likelihood, initial: Callable[[Key, Array, Any], Params]
) -> Callable[[Batch], None]:
    """Returns the check of a model's batches by their values.

    Args:
      split: images and condition of a batch.
      likelihood: p(x|z), whose support holds the images.
      initial: initial parameters, `(key, x, c) -> params`.
    """

    def check(batch: Batch) -> None:
        x, c = split(batch)
        if likelihood.support is not None:
            checks.values_within("images", x, likelihood.support, "the likelihood")
        if c is not None:
            # A step sees traced values; here a network can refuse those of the condition. NumPy's
            # functions of a jax.Array are traced too, those of a NumPy array are not.
            known = jax.tree.map(np.asarray, c)
            jax.eval_shape(lambda key: initial(key, x, known), rng.root(0))

    return check


def _check_shapes(model: Vae, key: Key, params: VaeParams, x: Array, c: Any) -> None:
    """Refuses densities and draws of a wrong shape, such as a mean over the batch."""
    size = len(x)

    def expect(what: str, returned: Any, shape: tuple[int, ...], names: str) -> None:
        if getattr(returned, "shape", None) != shape:
            raise ValueError(
                f"{what} must return {names} = {list(shape)} for a batch of {size}, "
                f"got {checks.described(returned)}"
            )

    def of_example(what: str, returned: Any) -> None:
        expect(what, returned, (size,), "one number per example, [B]")

    def draw(what: str, returned: Any) -> None:
        expect(what, returned, (size, model.latent_dim), "[B, latent_dim]")

    keys = rng.per_example(rng.stream(key, "check"), size)
    posterior = functools.partial(model.encode, params)
    parameters = posterior(x, c)
    z = model.posterior.sample(rng.stream(keys, "posterior"), *parameters)
    draw("posterior.sample", z)
    of_example("posterior.log_prob", model.posterior.log_prob(z, *parameters))
    output = model.decode(params, z, c)
    of_example("likelihood.log_prob", model.likelihood.log_prob(output, x))
    draw("prior.sample", model.prior.sample(rng.stream(keys, "prior"), params.prior, posterior))
    of_example("prior.log_prob", model.prior.log_prob(params.prior, z, posterior))
    if model.prior.kl_divergence is not None:
        kl = model.prior.kl_divergence(params.prior, *parameters)
        of_example("prior.kl_divergence", kl)


def decode_mean(model: Vae) -> Callable[..., Array]:
    """Returns the function that decodes latents to mean images.

    The function is `(params, z [B, L], c=None) -> images [B, H, W, C]`. An image is the mean of
    p(x|z).
    """
    return lambda params, z, c=None: model.likelihood.mean(model.decode(params, z, c))


def generate(model: Vae) -> Callable[..., Array]:
    """Returns a sampler of the model's images.

    The sampler is `(keys [B], params, condition=None) -> images [B, H, W, C]`. An image is the mean
    of p(x|z) at a draw z ~ p(z). A condition has one entry per key. If the decoder needs one and
    none is given, the sampler raises ValueError.

    Draws from another density than the model's own prior, such as an ex-post density of the codes,
    are those of `generate(model._replace(prior=other))`; `tempered` is the prior at a temperature.
    """

    def sampler(keys: Keys, params: VaeParams, condition: Any = None) -> Array:
        z = model.prior.sample(keys, params.prior, functools.partial(model.encode, params))
        return decode_mean(model)(params, z, condition)

    return sampler


def reconstruct(model: Vae) -> Callable[[VaeParams, Batch], Array]:
    """Returns the function that reconstructs images.

    The function is `(params, batch) -> images [B, H, W, C]`. An image is the mean of p(x|z) at the
    mean z of q(z|x), not at a draw, so that it has no noise. That of another posterior than
    `diagonal_normal` is at its first parameter.
    """

    def reconstruction(params: VaeParams, batch: Batch) -> Array:
        x, c = model.condition(batch)
        return decode_mean(model)(params, model.encode(params, x, c)[0], c)

    return reconstruction
