"""VAE with a chain of latent layers, each of which sees its neighbours alone."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Condition, Key, Keys, Net, Params
from genmod.vae import posteriors
from genmod.vae.hierarchy import LayeredDraw, moments_in, of_layer, unconditioned
from genmod.vae.likelihoods import Likelihood, bernoulli
from genmod.vae.model import Vae, VaeParams, assembled
from genmod.vae.normal import log_normal
from genmod.vae.posteriors import Posterior
from genmod.vae.priors import Prior, standard_normal


class ChainPrior(NamedTuple):
    """Parameters of the prior of a `chain`.

    Attributes:
      layers: parameters of p(z_i | z_i+1), for each layer but the top one.
      top: parameters of p(z_K).
    """

    layers: tuple[Params, ...]
    top: Params


def chain(
    encoders: Sequence[Net],
    decoders: Sequence[Net],
    *,
    latent_dims: Sequence[int],
    likelihood: Likelihood = bernoulli,
    prior: Callable[[int], Prior] = standard_normal,
    condition: Condition | None = None,
) -> Vae:
    """Makes a VAE with a chain of latent layers.

        q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_K | z_K-1)
        p(x, z) = p(x | z_1) p(z_1 | z_2) ... p(z_K)

    Each factor is a diagonal Gaussian, but p(x | z_1) and p(z_K). With K = 1 this is the VAE of
    `vae.make`; with K = 2 it is the two-layer net of the IWAE paper.

    Args:
      encoders: K networks, the first of x, each other of the layer below. Each returns the means of
        its own layer, then the log-variances, [B, 2 * latent_dim].
      decoders: K networks, each of its own layer. The first returns the parameters of the
        likelihood, each other the means of the layer below, then the log-variances.
      latent_dims: numbers of latents of the K layers, from the data upwards.
      likelihood: p(x|z), as a function of the first decoder's output.
      prior: p(z_K), as a function `latent_dim -> Prior`. It cannot be made of posteriors, as the
        VampPrior is.
      condition: function `batch -> (x, c)`, as for `vae.make`. The condition goes to the first
        encoder and the first decoder.

    Returns:
      A Vae whose latents are those of all layers, from the data upwards, L in all. Objectives
      estimate its KL divergence at a draw; `layered_elbo` has a closed form for the top layer.

    Raises:
      ValueError: if there are not as many encoders and decoders as latent_dims, a latent_dim is not
        positive, the prior is on the sphere, or a network needs a condition that it does not get;
        when called, if a network returns another shape than its own.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), section 2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> encoders = [nets.mlp((8,), 2 * 4, heads=2), nets.mlp((8,), 2 * 3, heads=2)]
      >>> decoders = [nets.mlp((8,), (6, 6, 1)), nets.mlp((8,), 2 * 4, heads=2)]
      >>> model = vae.chain(encoders, decoders, latent_dims=(4, 3))
      >>> params = model.init(rng.root(0), jnp.zeros((5, 6, 6, 1)))
      >>> vae.generate(model)(rng.per_example(rng.root(1), 2), params).shape
      (2, 6, 6, 1)
    """
    dims = tuple(checks.positive_integer("latent_dims", dim) for dim in latent_dims)
    num = len(dims)
    encoders = _networks("encoders", encoders, num)
    decoders = _networks("decoders", decoders, num)
    top = prior(dims[-1])
    if top.is_on_sphere:
        raise ValueError(
            "prior of the top layer must be one of the whole space, as its posterior is, got one "
            "on the sphere"
        )
    below, prior_at = _priors(decoders, dims, top)

    def climb(choose: Callable[..., Array], mean: Array, logvar: Array, upper: Params) -> _Climb:
        """Chooses the latents of each layer, given its number and the moments of its posterior."""
        z, moments = [], []
        for i in range(num):
            if i:
                output = encoders[i](upper[i - 1], z[-1])
                mean, logvar = moments_in(output, (dims[i],), f"encoders[{i}]")
            moments.append((mean, logvar))
            z.append(choose(i, mean, logvar))
        return _Climb(z, moments)

    def lowest(params: VaeParams, x: Array, c: Any) -> tuple[Any, ...]:
        """Returns the moments of q(z_1 | x), and the parameters of the upper encoders."""
        output = encoders[0](params.encoder[0], x, c)
        return *moments_in(output, (dims[0],), "encoders[0]"), params.encoder[1:]

    def encode(params: VaeParams, x: Array, c: Any) -> tuple[Any, ...]:
        lower = lowest(params, x, c)
        central = climb(lambda i, mean, logvar: mean, *lower)
        return (jnp.concatenate(central.z, axis=1), *lower)

    def draw(keys: Keys, *lower: Any) -> _Climb:
        return climb(
            lambda i, mean, logvar: posteriors.sample(of_layer(keys, i), mean, logvar), *lower
        )

    def sample(keys: Keys, central: Array, *lower: Any) -> Array:
        return jnp.concatenate(draw(keys, *lower).z, axis=1)

    def log_prob(z: Array, central: Array, *lower: Any) -> Array:
        layers = _split(z, dims)
        moments = climb(lambda i, mean, logvar: layers[i], *lower).moments
        return jnp.stack([log_normal(layers[i], *moments[i]) for i in range(num)]).sum(0)

    def decode(params: VaeParams, z: Array, c: Any) -> Any:
        return decoders[0](params.decoder, _split(z, dims)[0], c)

    def terms(keys: Keys, params: VaeParams, x: Array, c: Any) -> tuple[Array, Array]:
        z, moments = draw(keys, *lowest(params, x, c))
        p = params.prior
        log_q = [log_normal(z[i], *moments[i]) for i in range(num)]
        kl = [log_q[i] - log_normal(z[i], *below(p, i + 1, z[i + 1])) for i in range(num - 1)]
        if top.kl_divergence is None:
            kl.append(log_q[-1] - top.log_prob(p.top, z[-1], _no_posterior))
        else:
            kl.append(top.kl_divergence(p.top, *moments[-1]))
        output = decoders[0](params.decoder, z[0], c)
        return -likelihood.log_prob(output, x), jnp.stack(kl, axis=1)

    def initial(key: Key, x: Array, c: Any) -> VaeParams:
        inputs = [x, *(jnp.zeros((len(x), dim)) for dim in dims)]
        first = encoders[0].initial(rng.stream(key, "encoder_1"), x, c)
        upper = [
            encoders[i].initial(rng.stream(key, f"encoder_{i + 1}"), inputs[i])
            for i in range(1, num)
        ]
        return VaeParams(
            encoder=(first, *upper),
            decoder=decoders[0].initial(rng.stream(key, "decoder"), inputs[1], c),
            prior=prior_at(1).init(rng.stream(key, "prior"), x),
        )

    layered = LayeredDraw(sample, terms, prior_at)
    return assembled(
        initial,
        encode,
        layered,
        decode,
        likelihood=likelihood,
        prior=prior_at(1),
        posterior=Posterior(tuple, layered, log_prob),
        latent_dim=sum(dims),
        networks={"encoder": encoders[0], "decoder": decoders[0]},
        condition=condition,
        maker="vae.chain",
    )


class _Climb(NamedTuple):
    """Latents of each layer, and means and log-variances of their posteriors."""

    z: list[Array]
    moments: list[tuple[Array, Array]]


def _priors(
    decoders: Sequence[Net], dims: tuple[int, ...], top: Prior
) -> tuple[Callable[..., tuple[Array, Array]], Callable[[float], Prior]]:
    """Returns p(z_i-1 | z_i), as `(params, i, z_i) -> moments`, and p(z) at a temperature."""
    num = len(dims)

    def below(p: ChainPrior, i: int, z: Array) -> tuple[Array, Array]:
        return moments_in(decoders[i](p.layers[i - 1], z), (dims[i - 1],), f"decoders[{i}]")

    def init(key: Key, x: Array) -> ChainPrior:
        layers = [
            decoders[i].initial(rng.stream(key, f"layer_{i}"), jnp.zeros((len(x), dims[i])))
            for i in range(1, num)
        ]
        return ChainPrior(tuple(layers), top.init(rng.stream(key, f"layer_{num}"), x))

    def prior_at(temperature: float) -> Prior:
        if temperature != 1 and not top.is_standard_normal:
            raise ValueError(
                "temperature must be 1, as the prior of the top layer is not N(0, I), got "
                f"{temperature}"
            )
        log_temperature = math.log(temperature)

        def sample(keys: Keys, p: ChainPrior, posterior: Any = None) -> Array:
            z = temperature * top.sample(of_layer(keys, num - 1), p.top, _no_posterior)
            layers = [z]
            for i in reversed(range(1, num)):
                mean, logvar = below(p, i, z)
                z = posteriors.sample(of_layer(keys, i - 1), mean, logvar + 2 * log_temperature)
                layers.append(z)
            return jnp.concatenate(layers[::-1], axis=1)

        def log_prob(p: ChainPrior, z: Array, posterior: Any = None) -> Array:
            layers = _split(z, dims)
            total = top.log_prob(p.top, layers[-1] / temperature, _no_posterior)
            total -= dims[-1] * log_temperature
            for i in range(1, num):
                mean, logvar = below(p, i, layers[i])
                total += log_normal(layers[i - 1], mean, logvar + 2 * log_temperature)
            return total

        return Prior(init, sample, log_prob)

    return below, prior_at


def _split(z: Array, dims: tuple[int, ...]) -> list[Array]:
    """Returns the latents of each layer."""
    return jnp.split(z, np.cumsum(dims)[:-1].tolist(), axis=1)


def _networks(name: str, networks: Any, num: int) -> list[Net]:
    """Returns the networks of all layers, checked."""
    found = [networks] if isinstance(networks, Net) else list(networks)
    if not num or len(found) != num:
        raise ValueError(
            f"{name} must be one network for each of the latent_dims, at least one, got "
            f"{len(found)} networks for {num} latent_dims"
        )
    for i, net in enumerate(found):
        unconditioned(f"{name}[{i}]", net, gets_one=i == 0)
    return found


def _no_posterior(*inputs: Any) -> Any:
    raise ValueError(
        "prior of a hierarchy's top layer must be one without posteriors q(z|x), got one made of "
        "posteriors, as the VampPrior is"
    )
