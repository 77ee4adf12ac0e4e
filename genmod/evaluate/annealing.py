"""Likelihoods between two bounds: annealed importance sampling (AIS) and its reverse.

AIS estimates the likelihood p(x) of any decoder, with any p(x | z) and without an encoder. Each
chain starts at a draw of the prior and moves through the intermediate distributions

    f_t(z) = p(z) p(x | z)^b_t,    0 = b_0 < b_1 < ... < b_T = 1

by Hamiltonian Monte Carlo (HMC). Its weight w is an unbiased estimate of p(x). So the logarithm of
the mean over chains is a lower bound of log p(x): its expectation is not above log p(x), and it
exceeds log p(x) by b nats with a probability below exp(-b).

A chain that moves from an exact draw of the posterior p(z | x) back to the prior estimates 1 / p(x)
without bias, which gives an upper bound in the same sense. Such a draw is at hand only if the model
itself has made x from it. So the upper bound exists on simulated data, and the gap between both
bounds there (bidirectional Monte Carlo, BDMC) tells how far the lower bound may be trusted on real
data, as far as real data are like simulated ones.

The step sizes of HMC are tuned in a pilot run on chains of its own. Step sizes that follow the past
of the same chains, as in the code of Wu et al., make the weights slightly biased: a kernel that
depends on where its chain has been does not leave f_t invariant. Given the pilot run, the step
sizes are constants, one for each example and temperature. The bounds are exact for any such
constants, and both directions use the same ones.

References:
  Neal, Annealed Importance Sampling, 2001 (arXiv:physics/9803008).
  Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo, 2015
  (arXiv:1511.02543).
  Wu et al., On the Quantitative Analysis of Decoder-Based Generative Models, 2017
  (arXiv:1611.04273).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from genmod import checks, rng
from genmod.evaluate import programs, tempering
from genmod.evaluate.averages import Estimate, estimate
from genmod.evaluate.tempering import LogLikelihood, Prior, temperatures
from genmod.types import Array, Batch, Key, Keys, Params

Simulate = Callable[[Keys, Params, Array], Batch]
"""Function `(keys [B], params, z [B, L]) -> batch` that draws x from p(x | z)."""


class Interval(NamedTuple):
    """Bounds of log p(x) for each example, in nats.

    Attributes:
      lower: lower bounds by AIS, [N].
      upper: upper bounds by reverse AIS, [N]; NaN on data that were not simulated, as an exact draw
        of their posterior is not at hand.
      error: standard errors of the lower bounds over chains, [N], by the delta method; NaN with a
        single chain. It is too small if no chain has found the posterior.
      effective_samples: number of equal weights that would be as informative, [N], from 1 to the
        number of chains.
      acceptance: mean acceptance of HMC over chains and temperatures, [N].
      step_size: step size of HMC at the last temperature, [N].
    """

    lower: np.ndarray
    upper: np.ndarray
    error: np.ndarray
    effective_samples: np.ndarray
    acceptance: np.ndarray
    step_size: np.ndarray

    @property
    def gap(self) -> Estimate:
        """Mean of upper minus lower with its standard error over examples."""
        return estimate(self.upper - self.lower)


class Simulated(NamedTuple):
    """Bounds on simulated data.

    Attributes:
      interval: both bounds for each example.
      examples: the simulated x, an array [N, ...] or a tree of such arrays.
      latents: z [N, L] from which they were drawn.
    """

    interval: Interval
    examples: Batch
    latents: Array


def annealed(
    key: Key,
    params: Params,
    examples: Batch,
    log_likelihood: LogLikelihood,
    *,
    latent_dim: int | None = None,
    prior: Prior | None = None,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    schedule: str | np.ndarray = "sigmoid",
    num_leapfrog: int = 10,
    batch_size: int = 64,
    progress: bool = True,
) -> Interval:
    """Returns lower bounds of log p(x) by annealed importance sampling.

    On real data there is no upper bound: state the gap that `bidirectional` finds with the same
    options beside the result. All computation is at the highest matmul precision. Memory does not
    grow with the number of temperatures, except for one step size for each of a batch's examples.
    Each chain of each example has its own keys, so the result does not depend on batch_size (except
    for rounding).

    Args:
      key: single key.
      params: parameters of the model, a tree of arrays.
      examples: array [N, ...], or a tree of such arrays; log_likelihood gets them as they are.
      log_likelihood: function `(params, z [B, L], batch) -> log p(x | z) [B]`.
      latent_dim: number of latent dimensions L, for the prior N(0, I).
      prior: another prior; exactly one of latent_dim and prior is given.
      num_chains: number of chains for each example.
      num_temperatures: number of intermediate distributions, each with one move of HMC.
      schedule: "sigmoid", "linear", "geometric", or inverse temperatures of your own, as
        `temperatures` returns them.
      num_leapfrog: number of leapfrog steps in a move.
      batch_size: number of examples at once, with num_chains chains each.
      progress: whether to show a progress bar.

    Raises:
      ValueError: if an argument is out of range or has another shape, or the log-likelihood is NaN.

    Example:
      >>> from genmod import rng
      >>> from genmod.evaluate import linear_gaussian as model
      >>> from genmod.evaluate.annealing import annealed
      >>> params = model.init(rng.root(0), 5, 2)
      >>> x, _ = model.sample(rng.per_example(rng.root(1), 3), params)
      >>> options = {"latent_dim": 2, "num_temperatures": 20, "progress": False}
      >>> annealed(rng.root(2), params, x, model.log_conditional, **options).lower.shape
      (3,)
    """
    sampler = tempering.sampler(log_likelihood, latent_dim, prior, num_leapfrog)
    path = temperatures(num_temperatures, schedule)
    return _bounds(sampler, key, params, examples, None, path, num_chains, batch_size, progress)


def bidirectional(
    key: Key,
    params: Params,
    num: int,
    log_likelihood: LogLikelihood,
    simulate: Simulate,
    *,
    latent_dim: int | None = None,
    prior: Prior | None = None,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    schedule: str | np.ndarray = "sigmoid",
    num_leapfrog: int = 10,
    batch_size: int = 64,
    progress: bool = True,
) -> Simulated:
    """Returns both bounds of log p(x) on data that the model simulates.

    For each example, z is drawn from the prior and x from p(x | z). So z is an exact draw of the
    posterior p(z | x), and all chains of the reverse run start there. The two bounds have the same
    step sizes and temperatures. The `gap` of the interval bounds the mean error of either side, in
    expectation: if it is small, lower bounds of `annealed` with the same options are accurate on
    data such as these.

    Args:
      key: single key.
      params: parameters of the model, a tree of arrays.
      num: number of examples N to simulate.
      log_likelihood: function `(params, z [B, L], batch) -> log p(x | z) [B]`.
      simulate: function `(keys [B], params, z [B, L]) -> batch` that draws x from p(x | z).
      latent_dim: number of latent dimensions L, for the prior N(0, I).
      prior: another prior; exactly one of latent_dim and prior is given.
      num_chains: number of chains for each example and direction.
      num_temperatures: number of intermediate distributions, each with one move of HMC.
      schedule: inverse temperatures, as for `annealed`.
      num_leapfrog: number of leapfrog steps in a move.
      batch_size: number of examples at once, with num_chains chains each.
      progress: whether to show a progress bar.

    Raises:
      ValueError: if an argument is out of range or has another shape, or the log-likelihood is NaN.

    Example:
      >>> from genmod import rng
      >>> from genmod.evaluate import linear_gaussian as model
      >>> from genmod.evaluate.annealing import bidirectional
      >>> params, functions = model.init(rng.root(0), 5, 2), (model.log_conditional, model.simulate)
      >>> options = {"latent_dim": 2, "num_temperatures": 100, "progress": False}
      >>> interval, x, z = bidirectional(rng.root(1), params, 8, *functions, **options)
      >>> -1 < interval.gap.mean < 1
      True
    """
    sampler = tempering.sampler(log_likelihood, latent_dim, prior, num_leapfrog)
    path = temperatures(num_temperatures, schedule)
    num = checks.positive_integer("num", num)
    num_chains = checks.positive_integer("num_chains", num_chains)
    batch_size = checks.positive_integer("batch_size", batch_size)

    @jax.jit
    def simulated(key: Key, params: Params) -> tuple[Array, Batch]:
        keys = rng.per_example(rng.stream(key, "simulate"), num)
        z = sampler.prior.sample(rng.stream(keys, "latent"), params)
        return z, simulate(rng.stream(keys, "observation"), params, z)

    with jax.default_matmul_precision("highest"):
        z, x = simulated(key, params)
    checks.examples("what simulate returns", x, num)
    interval = _bounds(sampler, key, params, x, z, path, num_chains, batch_size, progress)
    return Simulated(interval, x, z)


_PILOT_CHAINS = 4
"""Number of chains for each example on which its step sizes are tuned."""


def _bounds(
    sampler: tempering.Sampler,
    key: Key,
    params: Params,
    examples: Batch,
    latents: Array | None,
    path: np.ndarray,
    num_chains: int,
    batch_size: int,
    progress: bool,
) -> Interval:
    """Returns the bounds of all examples; upper ones if exact latents are given."""
    from genmod._host.bars import tqdm

    num = programs.number_of(examples)
    chains = checks.positive_integer("num_chains", num_chains)
    size = min(num, checks.positive_integer("batch_size", batch_size))
    tempering.check(sampler, params, jax.tree.map(lambda leaf: leaf[:1], examples))
    firsts = range(0, num, size)
    runs = 2 if latents is None else 3
    found = []
    show = tqdm(
        total=runs * len(firsts) * (len(path) - 2),
        desc="annealing",
        unit="temperature",
        leave=False,
        disable=None if progress else True,
    )
    with show as bar, jax.default_matmul_precision("highest"):
        for first in firsts:
            # The last batch is filled with its last example, so that one program serves all.
            index = np.minimum(np.arange(first, first + size), num - 1)
            batch, z = jax.tree.map(lambda leaf, index=index: leaf[index], (examples, latents))
            run = functools.partial(
                tempering.run,
                sampler=sampler,
                params=params,
                batch=batch,
                index=index,
                bar=bar,
            )
            pilot = run(rng.stream(key, "pilot"), path=path, chains=_PILOT_CHAINS)
            steps = pilot.step_sizes
            begin = rng.stream(key, "forward")
            forward = run(begin, path=path, chains=chains, step_sizes=steps)
            log_weights = forward.log_weights
            _check_finite(log_weights, index)
            upper = np.full(size, np.nan)
            if latents is not None:
                end, back = rng.stream(key, "reverse"), path[::-1]
                reverse = run(end, path=back, chains=chains, z=z, step_sizes=steps[::-1])
                _check_finite(reverse.log_weights, index)
                upper = -_log_mean(-reverse.log_weights)
            lower = _log_mean(log_weights)
            error, effective = _spread(log_weights)
            last = np.asarray(steps[-1])
            found.append(Interval(lower, upper, error, effective, forward.acceptance, last))
    return Interval(*(np.concatenate(parts)[:num] for parts in zip(*found, strict=True)))


def _check_finite(log_weights: np.ndarray, index: np.ndarray) -> None:
    bad = ~(log_weights < np.inf).all(1)
    if bad.any():
        raise ValueError(
            "log_likelihood must be below infinity and not NaN, got such a value for the "
            f"example {index[bad.argmax()]}"
        )


def _log_mean(log_weights: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the mean weight over chains, [B]."""
    most = log_weights.max(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = most + np.log(np.exp(log_weights - most[:, None]).mean(1))
    return np.where(np.isfinite(most), means, most)


def _spread(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the error of the logarithm of the mean weight, and effective samples."""
    chains = log_weights.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.exp(log_weights - _log_mean(log_weights)[:, None])  # their mean is 1
        effective = chains / np.square(weights).mean(1)
        if chains == 1:
            return np.full(len(weights), np.nan), effective
        return weights.std(1, ddof=1) / math.sqrt(chains), effective
