"""Objectives that bound log p(x) by several draws of the posterior.

They rest on the log weights of K draws z_k ~ q(z | x),

    log w_k = log p(x, z_k) - log q(z_k | x)

whose mean is the evidence lower bound (ELBO). A bound gives each draw a weight in the gradient: the
normalised importance weight w_k / sum_j w_j, or 1/K for the ELBO. No closed form of the KL
divergence is used.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Batch, Keys, Metrics, Objective
from genmod.vae.model import Vae, VaeParams
from genmod.vae.objectives import drawn, terms_at

Estimator = Literal["standard", "stl", "dreg"]
"""Names of the estimators of the encoder's gradient."""
ESTIMATORS: tuple[Estimator, ...] = ("standard", "stl", "dreg")

_Value = Callable[[Array], Array]
"""Function of log weights [K, B] that returns a bound [B]."""


def iwae(model: Vae, *, num_samples: int, estimator: Estimator = "standard") -> Objective:
    """Returns the objective of the importance weighted autoencoder (IWAE).

        loss = -log (1/K sum_k w_k)

    With K = 1 it is the negative ELBO, and it falls as K rises, down to -log p(x). The more draws,
    the smaller is the signal-to-noise ratio of the encoder's standard gradient (Rainforth et al.
    2018). Other estimators of it, which do not change the loss:

    - "stl", sticking the landing: the density log q(z | x) at a draw is differentiated by the draw
      alone, so that the gradient has no noise where q(z | x) is the true posterior. It is unbiased
      for K = 1 only.
    - "dreg", doubly reparametrised: the draw's gradient moreover has the squared normalised weight.
      It is unbiased for every K, and its signal-to-noise ratio does not fall with K.

    Args:
      model: the VAE.
      num_samples: number of draws K.
      estimator: "standard", "stl" or "dreg".

    Returns:
      An objective, with one loss per image in nats. Its aux holds the means over draws of the terms
      `reconstruction` and `kl` [B], as `elbo` has them.

    Raises:
      ValueError: if num_samples is not positive or the estimator unknown; when called, if there is
        not one key for each image.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), equations 8 and 13.
      Roeder et al., Sticking the Landing, 2017 (arXiv:1703.09194). Tucker et al., Doubly
      Reparameterized Gradient Estimators for Monte Carlo Objectives, 2019 (arXiv:1810.04152).
      Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018
      (arXiv:1802.04537).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> x = jnp.zeros((3, 6, 6, 1))
      >>> params = model.init(rng.root(0), x)
      >>> objective = vae.iwae(model, num_samples=5)
      >>> loss, aux = objective(rng.per_example(rng.root(1), 3), params, x)
      >>> loss.shape, sorted(aux)
      ((3,), ['kl', 'reconstruction'])
    """
    num_samples = checks.positive_integer("num_samples", num_samples)
    checks.known("estimator", estimator, ESTIMATORS)
    return _objective(model, num_samples, _log_mean, estimator=estimator)


def miwae(model: Vae, *, num_groups: int, num_samples: int) -> Objective:
    """Returns the objective of the multiply importance weighted autoencoder (MIWAE).

        loss = -1/M sum_m log (1/K sum_k w_mk)

    It is the IWAE's with K draws, averaged over M groups: the negative ELBO for K = 1.

    Args:
      model: the VAE.
      num_groups: number of groups M.
      num_samples: number of draws K of each group.

    Returns:
      An objective, with one loss per image in nats, and the aux of `iwae`.

    Raises:
      ValueError: if a number is not positive; when called, if there is not one key for each image.

    References:
      Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018
      (arXiv:1802.04537), section 5.
    """
    num_groups = checks.positive_integer("num_groups", num_groups)
    num_samples = checks.positive_integer("num_samples", num_samples)
    return _objective(model, num_groups * num_samples, _grouped(num_groups))


def piwae(model: Vae, *, num_groups: int, num_samples: int) -> Objective:
    """Returns the objective of the partially importance weighted autoencoder (PIWAE).

    The decoder and the prior follow the gradient of the IWAE with all M K draws, the encoder that
    of the MIWAE with M groups of K, whose signal-to-noise ratio is larger. The loss is the IWAE's.
    What a prior does with the encoder, as the VampPrior, counts as the prior's.

    Args:
      model: the VAE.
      num_groups: number of groups M.
      num_samples: number of draws K of each group.

    Returns:
      An objective, with one loss per image in nats, and the aux of `iwae`.

    Raises:
      ValueError: if a number is not positive; when called, if there is not one key for each image.

    References:
      Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018
      (arXiv:1802.04537), section 5.
    """
    num_groups = checks.positive_integer("num_groups", num_groups)
    num_samples = checks.positive_integer("num_samples", num_samples)
    return _objective(model, num_groups * num_samples, _log_mean, encoders=_grouped(num_groups))


def ciwae(model: Vae, *, num_samples: int, beta: float | Array) -> Objective:
    """Returns the objective of the combination importance weighted autoencoder (CIWAE).

        loss = -beta/K sum_k log w_k - (1 - beta) log (1/K sum_k w_k)

    It is the negative ELBO for beta = 1 and the IWAE's for beta = 0.

    Args:
      model: the VAE.
      num_samples: number of draws K.
      beta: weight of the ELBO, in [0, 1].

    Returns:
      An objective, with one loss per image in nats, and the aux of `iwae`.

    Raises:
      ValueError: if num_samples is not positive or beta not in [0, 1]; when called, if there is not
        one key for each image.

    References:
      Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018
      (arXiv:1802.04537), section 5.
    """
    num_samples = checks.positive_integer("num_samples", num_samples)
    if not isinstance(beta, jax.core.Tracer):
        checks.probability("beta", beta)

    def combined(log_weights: Array) -> Array:
        return beta * log_weights.mean(0) + (1 - beta) * _log_mean(log_weights)

    return _objective(model, num_samples, combined)


def _log_mean(log_weights: Array) -> Array:
    """Returns the logarithm of the mean weight, [K, B] -> [B]."""
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def _grouped(num_groups: int) -> _Value:
    def value(log_weights: Array) -> Array:
        groups = log_weights.reshape(num_groups, -1, log_weights.shape[1])
        return jax.vmap(_log_mean)(groups).mean(0)

    return value


def _objective(
    model: Vae,
    num_samples: int,
    bound: _Value,
    *,
    encoders: _Value | None = None,
    estimator: Estimator = "standard",
) -> Objective:
    """Returns minus a bound as an objective.

    Args:
      model: the VAE.
      num_samples: number of draws K.
      bound: the bound, as a function of the log weights.
      encoders: bound whose gradient the encoder follows, if that is another.
      estimator: estimator of the encoder's gradient, if that is the bound's.
    """
    fixed = jax.lax.stop_gradient

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        parameters = model.encode(params, x, c)
        numbers = jnp.arange(num_samples)
        draw = jax.vmap(lambda number: drawn(model, rng.at_step(keys, number), parameters))
        z, log_q = draw(numbers)

        def terms(params: VaeParams, z: Array, log_q: Array | None, parameters: tuple[Any, ...]):
            def of_draw(z: Array, log_q: Array | None) -> tuple[Array, Array]:
                return terms_at(model, params, x, c, z, parameters, log_q=log_q)

            return jax.vmap(of_draw)(z, log_q)

        def log_weights(*arguments: Any) -> Array:
            reconstruction, kl = terms(*arguments)
            return -reconstruction - kl

        followed = None
        if encoders is not None:
            followed = encoders(log_weights(fixed(params), z, log_q, parameters))
            z, log_q, parameters = fixed((z, log_q, parameters))
        elif estimator != "standard":
            parameters = fixed(parameters)
            if estimator == "dreg":
                # These values are computed once: XLA merges them with those below.
                known = log_weights(*fixed((params, z, log_q, parameters)))
                weights = jax.grad(lambda given: bound(given).sum())(known)
                z = _scaled_gradient(z, weights[:, :, None])
            log_q = None  # the density as a function of the draw alone
        reconstruction, kl = terms(params, z, log_q, parameters)
        value = bound(-reconstruction - kl)
        if followed is not None:
            value += followed - fixed(followed)
        return -value, {"reconstruction": reconstruction.mean(0), "kl": kl.mean(0)}

    return objective


@jax.custom_jvp
def _scaled_gradient(z: Array, weights: Array) -> Array:
    """Returns z, whose gradient is multiplied by weights."""
    del weights
    return z


@_scaled_gradient.defjvp
def _scaled_gradient_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return primals[0], primals[1] * tangents[0]
