"""Chains that move from a prior to a posterior, or back, through tempered distributions.

    f_t(z) = p(z) p(x | z)^b_t,    0 = b_0 < b_1 < ... < b_T = 1

`genmod.evaluate.annealing` makes bounds of the likelihood from their weights.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.evaluate import hmc
from genmod.types import Array, Batch, Key, Keys, Params

LogLikelihood = Callable[[Params, Array, Batch], Array]
"""Function `(params, z [B, L], batch) -> log p(x | z) [B]`, in nats.

The batch is an array or a tree of arrays [B, ...]. Each value depends on its own latent and example
alone, and has a gradient with respect to z.
"""

_FIRST_STEP_SIZE = 0.5
"""Step size at which tuning begins; it suits N(0, I) of many dimensions."""
_LOOKS = 20
"""Number of programs in which a run of all temperatures is executed.

The progress bar moves between them, and their weights are added in float64.
"""


class Prior(NamedTuple):
    """Prior distribution over latents.

    Attributes:
      sample: one draw per key, `(keys [B], params) -> z [B, L]`.
      log_prob: log p(z) in nats, `(params, z [B, L]) -> [B]`.
    """

    sample: Callable[[Keys, Params], Array]
    log_prob: Callable[[Params, Array], Array]


def standard_normal(latent_dim: int) -> Prior:
    """Returns the prior N(0, I) of L latent dimensions."""
    latent_dim = checks.positive_integer("latent_dim", latent_dim)

    def sample(keys: Keys, params: Params) -> Array:
        del params
        return jax.vmap(lambda key: jax.random.normal(key, (latent_dim,)))(keys)

    def log_prob(params: Params, z: Array) -> Array:
        del params
        return -0.5 * (jnp.square(z).sum(-1) + latent_dim * math.log(2 * math.pi))

    return Prior(sample, log_prob)


def temperatures(num: int, schedule: str | np.ndarray = "sigmoid") -> np.ndarray:
    """Returns inverse temperatures b_0 = 0 to b_T = 1, [num + 2].

    With t = 0, ..., T and T = num + 1, before they are scaled to reach from 0 to 1:

        sigmoid:    b_t = sigmoid(8 t / T - 4)
        linear:     b_t = t / T
        geometric:  b_t = 10^(-4 (T - t) / num), t > 0

    The sigmoid is that of Grosse et al. and Wu et al.; it has many temperatures near both ends. A
    geometric schedule has even more near the prior, none of them below 1e-4.

    Args:
      num: number of intermediate distributions, without the prior and the posterior.
      schedule: "sigmoid", "linear" or "geometric", or inverse temperatures [num + 2] from 0 to 1,
        which are checked.

    Raises:
      ValueError: if num is not positive, or the schedule is unknown or does not rise from 0 to 1.

    Example:
      >>> from genmod.evaluate.annealing import temperatures
      >>> temperatures(3, "linear").tolist()
      [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    num = checks.positive_integer("num_temperatures", num)
    t = np.arange(num + 2) / (num + 1)
    if isinstance(schedule, str):
        checks.known("schedule", schedule, ("sigmoid", "linear", "geometric"))
    if not isinstance(schedule, str):
        path = np.asarray(schedule, np.float64)
    elif schedule == "sigmoid":
        path = 1 / (1 + np.exp(4 - 8 * t))
        path = (path - path[0]) / (path[-1] - path[0])
    elif schedule == "geometric":
        path = np.concatenate([[0.0], np.logspace(-4, 0, num + 1)])
    else:
        path = t
    rising = path.shape == (num + 2,) and path[0] == 0 and path[-1] == 1
    if not rising or not (np.diff(path) > 0).all():
        raise ValueError(
            f"schedule must rise from 0 to 1 in {num + 2} values (num_temperatures + 2), got "
            f"{checks.described(path)}: {np.array2string(path, threshold=6, precision=3)}"
        )
    return path


class Sampler(NamedTuple):
    """Compiled parts of a run.

    Attributes:
      prior: the prior.
      log_likelihood: function `(params, z [B, L], batch) -> log p(x | z) [B]`.
      start: start of all chains of a batch, see `sampler`.
      move: moves along a path of temperatures, see `sampler`.
    """

    prior: Prior
    log_likelihood: LogLikelihood
    start: Callable[..., tuple[Keys, Batch, hmc.State]]
    move: Callable[..., Any]


def sampler(
    log_likelihood: LogLikelihood, latent_dim: Any, prior: Prior | None, num_leapfrog: int
) -> Sampler:
    """Returns the compiled parts of a run, after checks of its options."""
    if (latent_dim is None) == (prior is None):
        raise ValueError(
            "exactly one of latent_dim and prior must be given, got latent_dim="
            f"{latent_dim!r} and prior={'None' if prior is None else 'another'}"
        )
    if prior is not None and (not isinstance(prior, tuple) or len(prior) != 2):
        raise ValueError(
            "prior must be an evaluate.Prior(sample, log_prob) of (keys, params) and (params, z), "
            f"got {checks.described(prior)}"
        )
    sample, log_prob = prior or standard_normal(latent_dim)
    num_leapfrog = checks.positive_integer("num_leapfrog", num_leapfrog)

    def density(params: Params, rows: Batch, beta: Array | float) -> hmc.Density:
        """Returns the log density of an intermediate distribution, up to a constant.

        Its aux are the logarithms of prior and likelihood and their gradients.
        """

        def values(z: Array) -> tuple[Array, Array, Any]:
            log_prior, slope, _ = hmc.density(functools.partial(log_prob, params))(z)
            found, steep, _ = hmc.density(lambda z: log_likelihood(params, z, rows))(z)
            aux = (log_prior, slope, found, steep)
            return *_tempered(aux, beta), aux

        return values

    @functools.partial(jax.jit, static_argnames="chains")
    def start(
        key: Key, params: Params, batch: Batch, index: Array, z: Array | None, chains: int
    ) -> tuple[Keys, Batch, hmc.State]:
        """Starts chains of the examples [B] of these numbers, at z or at draws of the prior.

        Returns keys, examples and states of the rows [B * chains].
        """
        keys = jax.vmap(rng.at_step, in_axes=(None, 0))(key, index)
        keys = jax.vmap(functools.partial(rng.per_example, num=chains))(keys).reshape(-1)
        rows, z = jax.tree.map(lambda leaf: jnp.repeat(leaf, chains, axis=0), (batch, z))
        if z is None:
            z = sample(rng.stream(keys, "prior"), params)
        return rng.stream(keys, "move"), rows, hmc.start(density(params, rows, 1.0), z)

    @functools.partial(jax.jit, static_argnames="tuning")
    def move(
        params: Params,
        rows: Batch,
        keys: Keys,
        state: hmc.State,
        path: Array,
        gaps: Array,
        step_sizes: Array,
        span: tuple[Array, Array],
        tuning: bool,
    ) -> Any:
        """Moves from one temperature of a path to another.

        Here `path` are the inverse temperatures without both ends [T - 1], and `gaps` the
        differences of all [T]. Returns the state, the increments of the log weights and the sums of
        the acceptance [B * chains], and the step sizes [T - 1, B], tuned if it is wanted.
        """
        num = step_sizes.shape[1]

        def body(t: Array, carry: Any) -> Any:
            state, log_weight, accepted, step_sizes = carry
            log_weight += gaps[t] * state.aux[2]
            state = hmc.State(state.position, *_tempered(state.aux, path[t]), state.aux)
            here = step_sizes[t]
            state, acceptance = hmc.step(
                rng.at_step(keys, t),
                state,
                density(params, rows, path[t]),
                step_size=jnp.repeat(here, len(keys) // num),
                num_leapfrog=num_leapfrog,
            )
            if tuning:  # the next temperature begins where this one has arrived
                here = hmc.adapted(here, acceptance.reshape(num, -1).mean(1))
                step_sizes = step_sizes.at[t].set(here).at[t + 1].set(here, mode="drop")
            return state, log_weight, accepted + acceptance, step_sizes

        nothing = jnp.zeros_like(state.log_density)
        return jax.lax.fori_loop(*span, body, (state, nothing, nothing, step_sizes))

    return Sampler(Prior(sample, log_prob), log_likelihood, start, move)


def check(sampler: Sampler, params: Params, batch: Batch) -> None:
    """Refuses functions that do not return one number per row."""
    num = checks.leading_axis("examples", batch)
    z = jax.eval_shape(sampler.prior.sample, rng.per_example(rng.root(0), num), params)
    if not hasattr(z, "shape") or len(z.shape) != 2 or z.shape[0] != num:
        raise ValueError(f"the prior's sample must return z [B, L], got {z}")
    found = {
        "log_likelihood": jax.eval_shape(sampler.log_likelihood, params, z, batch),
        "the prior's log_prob": jax.eval_shape(sampler.prior.log_prob, params, z),
    }
    for name, one in found.items():
        wanted = getattr(one, "shape", None) == (num,)
        if not wanted or not jnp.issubdtype(one.dtype, jnp.floating):
            raise ValueError(f"{name} must return one floating number per row [B], got {one}")


def _tempered(aux: Any, beta: Array | float) -> tuple[Array, Array]:
    """Returns the log density of an intermediate distribution and its gradient."""
    log_prior, slope, log_likelihood, steep = aux
    return log_prior + beta * log_likelihood, slope + beta * steep


class Run(NamedTuple):
    """Outcome of one run of a batch.

    Attributes:
      log_weights: log weight of each chain, float64 [B, chains].
      acceptance: mean acceptance, [B].
      step_sizes: step size at each temperature of the path, [T - 1, B].
    """

    log_weights: np.ndarray
    acceptance: np.ndarray
    step_sizes: Array


def run(
    key: Key,
    sampler: Sampler,
    params: Params,
    batch: Batch,
    index: np.ndarray,
    path: np.ndarray,
    *,
    chains: int,
    bar: Any,
    z: Array | None = None,
    step_sizes: Any = None,
) -> Run:
    """Runs all chains of a batch along a path of temperatures.

    The log weights are those of a path from the prior to the posterior, in either direction.

    Args:
      key: single key.
      sampler: compiled parts.
      params: parameters of the model.
      batch: examples, [B, ...].
      index: numbers of the examples, to which their keys belong, [B].
      path: inverse temperatures, rising from 0 to 1 or falling from 1 to 0, [T + 1].
      chains: number of chains for each example.
      bar: progress bar, in temperatures.
      z: starts of the chains [B, L]; if None, they are draws of the prior.
      step_sizes: step sizes [T - 1, B]; if None, they are tuned.
    """
    keys, rows, state = sampler.start(key, params, batch, index.astype(np.uint32), z, chains)
    dtype, num, size = state.position.dtype, len(path) - 2, len(index)
    tuning = step_sizes is None
    if tuning:
        step_sizes = np.full((num, size), _FIRST_STEP_SIZE, dtype)
    gaps, at_once = np.abs(np.diff(path)), -(-num // _LOOKS)
    betas, widths = path[1:-1].astype(dtype), gaps.astype(dtype)
    log_weights, accepted = np.zeros(size * chains), np.zeros(size * chains)
    for first in range(0, num, at_once):
        span = (first, min(first + at_once, num))
        state, increments, sums, step_sizes = sampler.move(
            params, rows, keys, state, betas, widths, step_sizes, span, tuning=tuning
        )
        log_weights += np.asarray(increments, np.float64)
        accepted += np.asarray(sums, np.float64)
        bar.update(span[1] - first)
    log_weights += gaps[-1] * np.asarray(state.aux[2], np.float64)
    acceptance = accepted.reshape(size, chains).mean(1) / num
    return Run(log_weights.reshape(size, chains), acceptance, step_sizes)
