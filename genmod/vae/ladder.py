"""Ladder of latent layers: a top-down VAE with residual posteriors.

Deep ladders meet rare steps whose gradient is huge. As in VDVAE, such steps can be skipped, and how
often that happens can be logged:

    too_large = functools.partial(optax.skip_large_updates, max_squared_norm=200.0**2)
    optimizer = optax.MultiSteps(optax.adam(1e-3), 1, should_skip_update_fn=too_large)

    def report(gradient, updates, params):
        return {"skipped": too_large(gradient, 0, params)[0].astype(jnp.float32)}

    train.learner(model.init, vae.layered_elbo(model), optimizer, report=report)

The logged number is the share of skipped steps. A loss that is not finite still stops training.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Condition, Key, Keys, Net, Params
from genmod.vae import posteriors
from genmod.vae.hierarchy import LayeredDraw, moments_in, of_layer, unconditioned
from genmod.vae.likelihoods import Likelihood, bernoulli
from genmod.vae.model import Vae, VaeParams, assembled
from genmod.vae.normal import kl_normal, log_normal
from genmod.vae.posteriors import Posterior
from genmod.vae.priors import Prior


class Rung(NamedTuple):
    """Layer of a `ladder`, as its networks.

    Below the top layer, `posterior` and `decoder` get their input beside the state from above, that
    is concatenated with it along the last axis, the channels. So all axes but the last must be
    equal: images must have one size.

    Attributes:
      latent: shape of the layer's latents z_i of one example, (..., C).
      encoder: network of the features of the layer below, of x in the lowest layer, that returns
        the features of this layer.
      posterior: network of these features that returns [B, ..., 2 C]: differences of the
        posterior's means, then of its log-variances, from the prior's.
      decoder: network of z_i that returns the state for the layer below, in the lowest layer the
        parameters of the likelihood.
      prior: network of the state from above that returns [B, ..., 2 C]: means, then log-variances.
        None in the top layer, whose prior is N(0, I).
    """

    latent: tuple[int, ...]
    encoder: Net
    posterior: Net
    decoder: Net
    prior: Net | None = None


class TopDown(NamedTuple):
    """Parameters of a layer's part of p(z).

    Attributes:
      prior: those of its network `prior`; `()` in the top layer.
      decoder: those of its network `decoder`; `()` in the lowest layer, where they are p(x|z)'s.
    """

    prior: Params
    decoder: Params


class BottomUp(NamedTuple):
    """Parameters of a layer's part of q(z|x).

    Attributes:
      encoder: those of its network `encoder`.
      posterior: those of its network `posterior`.
    """

    encoder: Params
    posterior: Params


_Choose = Callable[[int, Any, Array, Array], Array]
"""Function `(number of the layer, state from above, prior's mean and logvar) -> latents`."""


def ladder(
    rungs: Sequence[Rung],
    *,
    likelihood: Likelihood = bernoulli,
    condition: Condition | None = None,
) -> Vae:
    """Makes a VAE whose posterior and prior both go down a ladder of layers.

        p(x, z) = p(z_K) p(z_K-1 | z_K) ... p(z_1 | z_2, ..., z_K) p(x | z)
        q(z | x) = q(z_K | x) q(z_K-1 | z_K, x) ... q(z_1 | z_2, ..., z_K, x)

    The encoders go from x upwards and draw nothing. Then a state goes downwards, which p and q
    share. At each layer it gives the prior N(mean, exp(logvar)) of z_i; with the features of x at
    that layer it gives the posterior by its difference from the prior,

        q = N(mean + d_mean, exp(logvar + d_logvar)).

    So a layer that knows nothing of x, with d = 0, has no KL divergence. The layers' networks may
    be `nets.residual_stage` for images, and `nets.mlp` for vectors.

    Args:
      rungs: the layers, from the data upwards.
      likelihood: p(x|z), as a function of the lowest decoder's output.
      condition: function `batch -> (x, c)`, as for `vae.make`. The condition goes to the lowest
        encoder and the lowest decoder.

    Returns:
      A Vae whose latents are those of all layers, flattened, from the data upwards. Train it by
      `layered_elbo`, which has the KL divergence of each layer in closed form. In compiled code its
      other objectives cost as much for a draw: there q, p and the decoder go down together.

    Raises:
      ValueError: if there is no layer, a shape is not of positive numbers, another layer than the
        top one has no prior, or a network needs a condition that it does not get; when called, if a
        network returns another shape than its own.

    References:
      Sonderby et al., Ladder Variational Autoencoders, 2016 (arXiv:1602.02282).
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016
      (arXiv:1606.04934), appendix C.
      Vahdat & Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020 (arXiv:2007.03898),
      section 3.2.
      Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images, 2021
      (arXiv:2011.10650).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> images = vae.Rung(
      ...     latent=(3, 3, 2),
      ...     encoder=nets.residual_stage(4, resize="half"),
      ...     posterior=nets.residual_stage(4, out=4),
      ...     prior=nets.residual_stage(4, out=4),
      ...     decoder=nets.residual_decoder((6, 6, 1), widths=(4,)),
      ... )
      >>> vectors = vae.Rung((5,), nets.mlp((), 8), nets.mlp((), 10), nets.mlp((), (3, 3, 4)))
      >>> model = vae.ladder([images, vectors])
      >>> params = model.init(rng.root(0), jnp.zeros((7, 6, 6, 1)))
      >>> model.latent_dim, vae.generate(model)(rng.per_example(rng.root(1), 2), params).shape
      (23, (2, 6, 6, 1))
    """
    rungs = _checked(rungs)
    descend, prior_at = _priors(rungs)

    def climb(params: VaeParams, x: Array, c: Any) -> tuple[Any, ...]:
        """Returns the features of all layers, and the networks' parameters that q needs."""
        features = [x]
        for i, rung in enumerate(rungs):
            given = c if i == 0 else None
            features.append(rung.encoder(params.encoder[i].encoder, features[-1], given))
        own = tuple(layer.posterior for layer in params.encoder)
        return tuple(features[1:]), own, params.prior

    def encode(params: VaeParams, x: Array, c: Any) -> tuple[Any, ...]:
        lower = climb(params, x, c)
        central = follow(lambda i, mean, logvar, prior: mean, *lower)
        return (_flat(central[0]), *lower)

    def follow(choose: Callable[..., Array], features: Any, own: Params, p: Params):
        """Goes down with latents of `(i, mean, logvar, prior's moments) -> z_i`.

        Returns all latents, and the input of the lowest decoder.
        """

        def from_prior(i: int, state: Any, mean: Array, logvar: Array) -> Array:
            output = rungs[i].posterior(own[i], _beside(i, features[i], state))
            d_mean, d_logvar = moments_in(output, rungs[i].latent, f"posterior of rungs[{i}]")
            return choose(i, mean + d_mean, logvar + d_logvar, (mean, logvar))

        return descend(p, len(features[0]), from_prior)

    def draw(i: int, mean: Array, logvar: Array, prior: Any, *, keys: Keys) -> Array:
        return posteriors.sample(of_layer(keys, i), mean, logvar)

    def sample(keys: Keys, central: Array, *lower: Any) -> Array:
        return _flat(follow(functools.partial(draw, keys=keys), *lower)[0])

    def log_prob(z: Array, central: Array, *lower: Any) -> Array:
        layers, total = _split(z, rungs), []

        def given(i: int, mean: Array, logvar: Array, prior: Any) -> Array:
            total.append(_log_normal(layers[i], mean, logvar))
            return layers[i]

        follow(given, *lower)
        return jnp.stack(total).sum(0)

    def decode(params: VaeParams, z: Array, c: Any) -> Any:
        layers = _split(z, rungs)
        _, state = descend(params.prior, len(z), lambda i, *prior: layers[i])
        return rungs[0].decoder(params.decoder, state, c)

    def terms(keys: Keys, params: VaeParams, x: Array, c: Any) -> tuple[Array, Array]:
        kl: list[Array] = []

        def drawn(i: int, mean: Array, logvar: Array, prior: tuple[Array, Array]) -> Array:
            each = kl_normal(*map(_flatten, (mean, logvar, *prior)))
            kl.insert(0, each.sum(-1))
            return draw(i, mean, logvar, prior, keys=keys)

        _, state = follow(drawn, *climb(params, x, c))
        output = rungs[0].decoder(params.decoder, state, c)
        return -likelihood.log_prob(output, x), jnp.stack(kl, axis=1)

    def initial(key: Key, x: Array, c: Any) -> VaeParams:
        p = prior_at(1).init(rng.stream(key, "prior"), x)

        def seen(p: Params) -> tuple[dict[int, Any], Array]:
            states: dict[int, Any] = {}

            def choose(i: int, state: Any, mean: Array, logvar: Array) -> Array:
                states[i] = state
                return mean

            _, lowest = descend(p, len(x), choose)
            return states, lowest

        shapes, lowest = _zeros(seen, p)
        encoder, features = [], x
        for i, rung in enumerate(rungs):
            given = c if i == 0 else None
            own = rung.encoder.initial(rng.stream(key, f"encoder_{i + 1}"), features, given)
            features = _zeros(rung.encoder, own, features, given)
            inputs = _beside(i, features, shapes[i])
            posterior = rung.posterior.initial(rng.stream(key, f"posterior_{i + 1}"), inputs)
            encoder.append(BottomUp(own, posterior))
        decoder = rungs[0].decoder.initial(rng.stream(key, "decoder"), lowest, c)
        return VaeParams(tuple(encoder), decoder, p)

    layered = LayeredDraw(sample, terms, prior_at)
    return assembled(
        initial,
        encode,
        layered,
        decode,
        likelihood=likelihood,
        prior=prior_at(1),
        posterior=Posterior(tuple, layered, log_prob),
        latent_dim=sum(math.prod(rung.latent) for rung in rungs),
        networks={"encoder": rungs[0].encoder, "decoder": rungs[0].decoder},
        condition=condition,
        maker="vae.ladder",
    )


def _priors(rungs: Sequence[Rung]) -> tuple[Callable[..., Any], Callable[[float], Prior]]:
    """Returns the way down the ladder, and p(z) at a temperature.

    The way is `(params, B, choose) -> (latents of all layers, input of the lowest decoder)`.
    """
    num = len(rungs)

    def descend(p: Sequence[TopDown], size: int, choose: _Choose) -> tuple[list[Array], Array]:
        state: Any = None
        z: list[Array] = []
        for i in reversed(range(num)):
            net = rungs[i].prior
            if net is None:
                mean = logvar = jnp.zeros((size, *rungs[i].latent))
            else:
                output = net(p[i].prior, state)
                mean, logvar = moments_in(output, rungs[i].latent, f"prior of rungs[{i}]")
            z.insert(0, choose(i, state, mean, logvar))
            state = _beside(i, z[0], state)
            if i:
                state = rungs[i].decoder(p[i].decoder, state)
        return z, state

    def init(key: Key, x: Array) -> tuple[TopDown, ...]:
        state: Any = None
        params: list[TopDown] = []
        for i in reversed(range(num)):
            net = rungs[i].prior
            prior = () if net is None else net.initial(rng.stream(key, f"prior_{i + 1}"), state)
            state = _beside(i, jnp.zeros((len(x), *rungs[i].latent)), state)
            decoder = ()
            if i:
                decoder = rungs[i].decoder.initial(rng.stream(key, f"decoder_{i + 1}"), state)
                state = _zeros(rungs[i].decoder, decoder, state)
            params.insert(0, TopDown(prior, decoder))
        return tuple(params)

    def prior_at(temperature: float) -> Prior:
        shift = 2 * math.log(temperature)

        def sample(keys: Keys, p: Sequence[TopDown], posterior: Any = None) -> Array:
            checks.keys(keys)

            def draw(i: int, state: Any, mean: Array, logvar: Array) -> Array:
                return posteriors.sample(of_layer(keys, i), mean, logvar + shift)

            return _flat(descend(p, len(keys), draw)[0])

        def log_prob(p: Sequence[TopDown], z: Array, posterior: Any = None) -> Array:
            layers, total = _split(z, rungs), []

            def given(i: int, state: Any, mean: Array, logvar: Array) -> Array:
                total.append(_log_normal(layers[i], mean, logvar + shift))
                return layers[i]

            descend(p, len(z), given)
            return jnp.stack(total).sum(0)

        return Prior(init, sample, log_prob)

    return descend, prior_at


def _checked(rungs: Any) -> list[Rung]:
    found = [rungs] if isinstance(rungs, Rung) else list(rungs)
    if not found:
        raise ValueError("rungs must hold at least one layer, got none")
    for i, rung in enumerate(found):
        name = f"rungs[{i}]"
        if not isinstance(rung, Rung):
            raise ValueError(f"{name} must be a Rung, got {checks.described(rung)}")
        if not isinstance(rung.latent, tuple) or not rung.latent:
            raise ValueError(f"latent of {name} must be a shape (..., C), got {rung.latent!r}")
        for size in rung.latent:
            checks.positive_integer(f"latent of {name}", size)
        is_top = i == len(found) - 1
        if is_top != (rung.prior is None):
            raise ValueError(
                f"prior of {name} must be "
                + ("None, as the top layer's is N(0, I), got one" if is_top else "a Net, got None")
            )
        own = {field: getattr(rung, field) for field in ("encoder", "posterior", "decoder")}
        for field, net in (own if is_top else own | {"prior": rung.prior}).items():
            conditional = i == 0 and field in ("encoder", "decoder")
            unconditioned(f"{field} of {name}", net, gets_one=conditional)
    return found


def _beside(i: int, values: Array, state: Array | None) -> Array:
    """Concatenates the state from above with a layer's own values."""
    if state is None:
        return values
    if values.shape[:-1] != state.shape[:-1]:
        raise ValueError(
            f"rungs[{i}] must have features, latents and a state from above of one shape but for "
            f"the last axis, got {list(values.shape)} beside a state {list(state.shape)}"
        )
    return jnp.concatenate([values, state], axis=-1)


def _flatten(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _flat(layers: Sequence[Array]) -> Array:
    return jnp.concatenate([_flatten(z) for z in layers], axis=1)


def _split(z: Array, rungs: Sequence[Rung]) -> list[Array]:
    """Returns the latents of each layer, [B, ..., C]."""
    ends = np.cumsum([math.prod(rung.latent) for rung in rungs])[:-1].tolist()
    parts = jnp.split(z, ends, axis=1)
    return [part.reshape(-1, *rung.latent) for part, rung in zip(parts, rungs, strict=True)]


def _log_normal(z: Array, mean: Array, logvar: Array) -> Array:
    return log_normal(*map(_flatten, (z, mean, logvar)))


def _zeros(function: Callable[..., Any], *inputs: Any) -> Any:
    """Returns zeros of the shapes that a function returns."""
    shapes = jax.eval_shape(lambda: function(*inputs))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
