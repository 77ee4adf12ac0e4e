"""Priors p(z) over the latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key, Keys, Params
from genmod.vae import normal
from genmod.vae.flows import Flow
from genmod.vae.posteriors import Posterior, diagonal_normal
from genmod.vae.posteriors import sample as normal_sample

Encode = Callable[..., tuple[Array, ...]]
"""Function `(x [K, ...], c=None) -> parameters of q(z|x)`.

It is the model's `encode` with the current parameters, for a prior made of posteriors.
"""


class Prior(NamedTuple):
    """Prior distribution over latents, as pure functions.

    The argument `posterior` is the model's encoder with its current parameters, a function of
    images x [K, ...] that returns the parameters of q(z|x), such as (mean, logvar) [K, L]. A prior
    like the VampPrior, a mixture of the posteriors of learned images, calls it; gradients go
    through it to the encoder. That of a conditional model is a function of (x, c): the learned
    images then have learned or fixed conditions of their own, as p(z) itself depends on none.

    Attributes:
      init: initial parameters, `(key, x [B, H, W, C]) -> params`; `()` if there is nothing to
        learn.
      sample: one draw per key, `(keys [B], params, posterior=None) -> z [B, L]`.
      log_prob: log p(z) in nats, `(params, z [B, L], posterior=None) -> [B]`.
      kl_divergence: KL(q(z|x) || p(z)) in nats of a diagonal Gaussian posterior from this prior,
        `(params, mean [B, L], logvar [B, L]) -> [B]`; on the sphere of `von_mises_fisher`. If None,
        objectives estimate it by log q(z|x) - log p(z) at the draw z.
      is_standard_normal: whether p(z) is N(0, I), which can be drawn from without the model.
      latent_dim: number of latent dimensions L; None if not told.
      is_on_sphere: whether z lies on the unit sphere, with densities of its surface.
    """

    init: Callable[[Key, Array], Params]
    sample: Callable[..., Array]
    log_prob: Callable[..., Array]
    kl_divergence: Callable[[Params, Array, Array], Array] | None = None
    is_standard_normal: bool = False
    latent_dim: int | None = None
    is_on_sphere: bool = False


def standard_normal(latent_dim: int) -> Prior:
    """Returns the prior N(0, I), which has no parameters.

    Args:
      latent_dim: number of latent dimensions L.
    """

    def sample(keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
        del params, posterior
        checks.keys(keys)
        return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,)))(keys)

    def log_prob(params: Params, z: Array, posterior: Encode | None = None) -> Array:
        del params, posterior
        return normal.log_normal(z)

    def kl_divergence(params: Params, mean: Array, logvar: Array) -> Array:
        del params
        return normal.kl_divergence(mean, logvar)

    def init(key: Key, x: Any) -> Params:
        del key, x
        return ()

    return Prior(init, sample, log_prob, kl_divergence, True, latent_dim)


class MixtureParams(NamedTuple):
    """Parameters of a mixture of diagonal Gaussians.

    Attributes:
      mean: means, [K, L].
      logvar: logarithms of the variances, [K, L].
      logits: logarithms of the weights, up to a constant, [K].
    """

    mean: Array
    logvar: Array
    logits: Array


def mixture(num_components: int) -> Callable[[int], Prior]:
    """Makes a prior: a learned mixture of diagonal Gaussians.

        p(z) = sum_k softmax(logits)_k N(z; mean_k, exp(logvar_k))

    Means begin as draws from N(0, I), variances at 1, weights equal.

    Args:
      num_components: number of components K.

    Returns:
      A function `latent_dim -> Prior`, whose parameters are `MixtureParams`.

    Raises:
      ValueError: if num_components is not positive.

    References:
      Tomczak & Welling, VAE with a VampPrior, 2018 (arXiv:1705.07120), section 3 (with equal
      weights).

    Examples:
      >>> from genmod import nets, vae
      >>> encoder, decoder = nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1))
      >>> model = vae.make(encoder, decoder, latent_dim=2, prior=vae.mixture(10))
    """
    num = checks.positive_integer("num_components", num_components)

    def made(latent_dim: int) -> Prior:
        def init(key: Key, x: Any) -> MixtureParams:
            del x
            mean = jax.random.normal(key, (num, latent_dim))
            return MixtureParams(mean, jnp.zeros_like(mean), jnp.zeros(num))

        def sample(keys: Keys, params: MixtureParams, posterior: Encode | None = None) -> Array:
            del posterior
            checks.keys(keys)
            draw = jax.vmap(jax.random.categorical, in_axes=(0, None))
            index = draw(rng.stream(keys, "component"), params.logits)
            own = params.mean[index], params.logvar[index]
            return normal_sample(rng.stream(keys, "noise"), *own)

        def log_prob(params: MixtureParams, z: Array, posterior: Encode | None = None) -> Array:
            del posterior
            each = normal.log_normal(z[:, None], params.mean[None], params.logvar[None])
            return jax.nn.logsumexp(each + jax.nn.log_softmax(params.logits)[None], axis=1)

        return Prior(init, sample, log_prob, latent_dim=latent_dim)

    return made


def vampprior(
    num_components: int,
    *,
    posterior: Callable[[int], Posterior] = diagonal_normal,
    support: tuple[float, float] | None = (0.0, 1.0),
) -> Callable[[int], Prior]:
    """Makes the VampPrior: the mixture of the posteriors of learned images.

        p(z) = 1/K sum_k q(z | u_k)

    The images u_k, the pseudo-inputs, lie within the support: u = low + (high - low) sigmoid(a),
    with unconstrained parameters a [K, H, W, C]. They begin as images of the first batch, in a
    random order, and repeated if there are less than K: first drawn to the middle of the support by
    a tenth, then with noise of deviation 0.1 in a. So the first prior is spread as the posteriors
    of data are, and no two components are the same. (The paper begins with noise around a mean.)

    Its density encodes the K images anew at every step. A VAE whose encoder needs a condition is
    refused, as the pseudo-inputs have none.

    Args:
      num_components: number of components K.
      posterior: the `posterior` of the VAE, as for `vae.make`.
      support: least and largest value of a pixel; None leaves the images unconstrained.

    Returns:
      A function `latent_dim -> Prior`, whose parameters are a.

    Raises:
      ValueError: if num_components is not positive or the support not two rising numbers; on init,
        if known images lie outside the support or the encoder needs a condition; when called, if
        the VAE has another posterior.

    References:
      Tomczak & Welling, VAE with a VampPrior, 2018 (arXiv:1705.07120), equation 9.

    Examples:
      >>> from genmod import nets, vae
      >>> encoder, decoder = nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1))
      >>> model = vae.make(encoder, decoder, latent_dim=2, prior=vae.vampprior(10))
    """
    num = checks.positive_integer("num_components", num_components)
    low, high = (0.0, 1.0) if support is None else support
    if not (checks.is_finite_number(low) and checks.is_finite_number(high) and low < high):
        raise ValueError(f"support must be None or two rising numbers, got {support!r}")

    def init(key: Key, x: Array) -> Array:
        if support is not None and not isinstance(x, jax.core.Tracer):
            checks.values_within("images", x, support, "the VampPrior")
        rounds = -(-num // len(x))
        orders = jax.vmap(lambda i: jax.random.permutation(rng.at_step(key, i), len(x)))
        images = jnp.asarray(x)[orders(jnp.arange(rounds)).ravel()[:num]]
        noise = 0.1 * jax.random.normal(rng.stream(key, "noise"), images.shape)
        if support is not None:
            share = 0.05 + 0.9 * (images - low) / (high - low)
            images = jnp.log(share) - jnp.log1p(-share)
        return images + noise

    def images_of(params: Array) -> Array:
        return params if support is None else low + (high - low) * jax.nn.sigmoid(params)

    def made(latent_dim: int) -> Prior:
        q = posterior(latent_dim)

        def encoded(params: Array, encode: Encode | None) -> tuple[list[Any], list[Any]]:
            """Returns the parameters of the K posteriors, and those that they share."""
            if encode is None:
                raise ValueError(
                    "posterior must be the model's function x -> parameters of q(z|x), got None"
                )
            found = list(encode(images_of(params)))
            if not checks.takes(q.log_prob, 1 + len(found)):
                raise ValueError(
                    "vampprior(posterior=...) must be the posterior of the VAE, whose number of "
                    f"parameters is {len(found)}, got another"
                )
            return (found, []) if q.init is None else (found[:-1], found[-1:])

        def sample(keys: Keys, params: Array, posterior: Encode | None = None) -> Array:
            checks.keys(keys)
            own, shared = encoded(params, posterior)
            draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, num))
            index = draw(rng.stream(keys, "component"))
            return q.sample(rng.stream(keys, "noise"), *(a[index] for a in own), *shared)

        def log_prob(params: Array, z: Array, posterior: Encode | None = None) -> Array:
            own, shared = encoded(params, posterior)

            def of_one(*one: Array) -> Array:
                same = (jnp.broadcast_to(a, (len(z), *a.shape)) for a in one)
                return q.log_prob(z, *same, *shared)

            return jax.nn.logsumexp(jax.vmap(of_one)(*own), axis=0) - jnp.log(num)

        return Prior(init, sample, log_prob, latent_dim=latent_dim, is_on_sphere=q.is_on_sphere)

    return made


def flow_prior(flow: Callable[[int], Flow]) -> Callable[[int], Prior]:
    """Makes a prior: a learned flow of N(0, I).

        log p(z) = log N(f(z); 0, I) + log |df/dz|

    The flow's function f takes latents to noise, and a draw is its inverse at noise. So the density
    of an inverse autoregressive flow, which is then a masked autoregressive one, takes one pass,
    and its draws one pass a latent; both are as quick with `coupling` (a RealNVP prior).

    Args:
      flow: maker `latent_dim -> Flow` of a flow without context, such as `coupling`.

    Returns:
      A function `latent_dim -> Prior`, whose parameters are those of the flow.

    Raises:
      ValueError: when made, if the flow has a context, which no prior could give it.

    References:
      Dinh et al., Density estimation using Real NVP, 2017 (arXiv:1605.08803), equation 2.

    Examples:
      >>> from genmod import nets, vae
      >>> flow = vae.coupling(lambda width: nets.mlp((8,), width), num_layers=4)
      >>> encoder, decoder = nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1))
      >>> model = vae.make(encoder, decoder, latent_dim=2, prior=vae.flow_prior(flow))
    """

    def made(latent_dim: int) -> Prior:
        own = flow(latent_dim)
        if own.context:
            raise ValueError(
                f"flow_prior needs a flow without context, got one with a context of {own.context}"
            )
        noise = standard_normal(latent_dim)

        def sample(keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
            del posterior
            return own.inverse(params, noise.sample(keys, ()))[0]

        def log_prob(params: Params, z: Array, posterior: Encode | None = None) -> Array:
            del posterior
            start, log_det = own.forward(params, z)
            return normal.log_normal(start) + log_det

        return Prior(lambda key, x: own.init(key), sample, log_prob, latent_dim=latent_dim)

    return made
