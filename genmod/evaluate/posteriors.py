"""Information of a whole data set about a VAE's latents.

The posteriors are diagonal Gaussians q(z | x_n) = N(mean_n, exp(logvar_n)), given as arrays [N, L].
The prior is N(0, I). All numbers are in nats, and computed in float64.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.evaluate.averages import Estimate, estimate
from genmod.types import Array

_BLOCK = 2**16
"""Number of densities that are computed at a time, so that they fit into a CPU's cache."""


class ActiveUnits(NamedTuple):
    """Activity of each latent unit.

    Attributes:
      variance: variance of the posterior's mean over examples, [L].
      active: whether it exceeds the threshold, [L].
    """

    variance: np.ndarray
    active: np.ndarray

    @property
    def num_active(self) -> int:
        """Number of active units."""
        return int(self.active.sum())


class AggregatePosterior(NamedTuple):
    """Parts of the mean KL divergence from the prior, in nats.

        E_x KL(q(z|x) || p(z)) = mutual information + total correlation + dimension-wise KL

    Each part is a mean over one draw z per example, with its standard error.

    Attributes:
      kl: the sum of the three parts, estimated at the same draws.
      mutual_information: E KL(q(z|x) || q(z)), the information of z on the number of the example,
        at most log N.
      total_correlation: KL(q(z) || prod_j q(z_j)), the dependence between units.
      dimension_wise_kl: sum_j KL(q(z_j) || p(z_j)).
      unit_marginal_kl: its term of each unit, [L].
    """

    kl: Estimate
    mutual_information: Estimate
    total_correlation: Estimate
    dimension_wise_kl: Estimate
    unit_marginal_kl: np.ndarray


def active_units(mean: Array | np.ndarray, *, threshold: float = 0.01) -> ActiveUnits:
    """Returns the variance of each latent unit's mean over examples.

        A_j = Var_x(E[z_j | x]),    active if A_j > threshold

    The variance is that over these N examples, with the divisor N.

    Args:
      mean: means of the posteriors, [N, L] with N at least 2.
      threshold: variance above which a unit is active.

    Raises:
      ValueError: if mean has another shape, is of a single example or not finite, or threshold is
        below 0.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), section 5.2.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate.posteriors import active_units
      >>> active_units(np.array([[-1.0, 0.05], [1.0, -0.05]])).active.tolist()
      [True, False]
    """
    checks.not_negative("threshold", threshold)
    (values,) = _checked(mean=mean)
    if len(values) < 2:
        raise ValueError(
            f"mean must be of at least 2 examples, as one has no variance, got {list(values.shape)}"
        )
    variance = values.var(axis=0)
    return ActiveUnits(variance, variance > threshold)


def unit_kl(mean: Array | np.ndarray, logvar: Array | np.ndarray) -> np.ndarray:
    """Returns the mean KL divergence of each latent unit from N(0, 1), [L].

        KL_j = mean over n of 1/2 (mean_nj^2 + exp(logvar_nj) - 1 - logvar_nj)

    Args:
      mean: means of the posteriors, [N, L].
      logvar: logarithms of their variances, [N, L].

    Raises:
      ValueError: if the shapes differ, or a value is not finite.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate.posteriors import unit_kl
      >>> unit_kl(np.array([[0.0, 2.0]]), np.zeros((1, 2))).tolist()
      [0.0, 2.0]
    """
    mean, logvar = _checked(mean=mean, logvar=logvar)
    return (0.5 * (np.square(mean) + np.expm1(logvar) - logvar)).mean(axis=0)


def aggregate_posterior(
    mean: Array | np.ndarray,
    logvar: Array | np.ndarray,
    z: Array | np.ndarray,
    *,
    progress: bool = True,
) -> AggregatePosterior:
    """Splits the mean KL divergence by the data set's aggregate posterior.

        q(z) = 1/N sum_n q(z | x_n)

    This density and those of its units, q(z_j), are exact: each is a mixture of N Gaussians, and
    all of them are summed. Only the mean over z is an estimate. The time grows with N^2 L: 10,000
    examples with 50 units take about half a minute of a CPU core.

    Args:
      mean: means of the posteriors, [N, L].
      logvar: logarithms of their variances, [N, L].
      z: one draw from each posterior, [N, L], such as `model.sample(keys, mean, logvar)`.
      progress: whether to show a progress bar in a terminal.

    Raises:
      ValueError: if the shapes differ, or a value is not finite.

    References:
      Hoffman & Johnson, ELBO surgery, 2016.
      Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018
      (arXiv:1802.04942), equation 2.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate.posteriors import aggregate_posterior
      >>> far = np.array([[-100.0], [100.0]])
      >>> parts = aggregate_posterior(far, np.zeros((2, 1)), far)
      >>> round(parts.mutual_information.mean, 4)  # log 2
      0.6931
    """
    mean, logvar, z = _checked(mean=mean, logvar=logvar, z=z)
    return _parts(mean, logvar, z, -math.log(len(z)), progress)


def minibatch_weighted_sampling(
    mean: Array | np.ndarray, logvar: Array | np.ndarray, z: Array | np.ndarray, num_examples: int
) -> AggregatePosterior:
    """Estimates the parts from one batch, by minibatch weighted sampling.

        q(z_i) ~ 1/(N M) sum_k q(z_i | x_k),    over the M examples of the batch

    This is the estimator of beta-TCVAE's loss. It is biased, even if the batch is the data set: it
    gives posteriors that do not overlap a mutual information of log(N M) in place of log N, and
    equal posteriors one of log N in place of 0. So its numbers are to be compared only with each
    other, at one batch size; `aggregate_posterior` has none of this bias.

    Args:
      mean: means of the posteriors, [M, L].
      logvar: logarithms of their variances, [M, L].
      z: one draw from each posterior, [M, L].
      num_examples: number of examples N in the data set, at least M.

    Raises:
      ValueError: if the shapes differ, a value is not finite, or num_examples is below M.

    References:
      Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018
      (arXiv:1802.04942), section 3.2 and appendix C.1.
    """
    mean, logvar, z = _checked(mean=mean, logvar=logvar, z=z)
    num = _at_least(num_examples, len(z))
    return _parts(mean, logvar, z, -math.log(num * len(z)), progress=False)


def minibatch_stratified_sampling(
    mean: Array | np.ndarray, logvar: Array | np.ndarray, z: Array | np.ndarray, num_examples: int
) -> AggregatePosterior:
    """Estimates the parts from one batch, by minibatch stratified sampling.

        q(z_i) ~ 1/N q(z_i | x_i) + 1/(M-1) sum_k q(z_i | x_k) + (N-M+1)/(N (M-1)) q(z_i | x_l)

    Here l is the example after i in the batch, in a circle, and k runs over the M - 2 others. The
    estimate of q(z) is unbiased if the batch is drawn without replacement in random order, that of
    log q(z) is not.

    Args:
      mean: means of the posteriors, [M, L], with M at least 2.
      logvar: logarithms of their variances, [M, L].
      z: one draw from each posterior, [M, L].
      num_examples: number of examples N in the data set, at least M.

    Raises:
      ValueError: if the shapes differ, a value is not finite, M is 1, or num_examples is below M.

    References:
      Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018
      (arXiv:1802.04942), appendix C.2.
    """
    mean, logvar, z = _checked(mean=mean, logvar=logvar, z=z)
    num = _at_least(num_examples, len(z))
    if len(z) < 2:
        raise ValueError(f"mean must hold at least 2 examples, got {list(mean.shape)}")
    return _parts(mean, logvar, z, np.log(_stratified(len(z), num)), progress=False)


def _stratified(size: int, num_examples: int) -> np.ndarray:
    """Returns the weight of each component in the density of each draw, [M, M]."""
    index = np.arange(size)
    weights = np.full((size, size), 1 / (size - 1))
    weights[index, index] = 1 / num_examples
    weights[index, (index + 1) % size] = (num_examples - size + 1) / (num_examples * (size - 1))
    return weights


def _parts(
    mean: np.ndarray,
    logvar: np.ndarray,
    z: np.ndarray,
    log_weights: float | np.ndarray,
    progress: bool,
) -> AggregatePosterior:
    """Splits the KL divergence by the mixture with these weights.

    Args:
      mean: means of the components, [N, L].
      logvar: logarithms of their variances, [N, L].
      z: one draw from each component, [N, L].
      log_weights: logarithm of each component's weight in the density of each draw, [N, N], or that
        of all.
      progress: whether to show a progress bar.
    """
    own = _log_normal(z, mean, logvar).sum(axis=1)
    joint, units = np.empty(len(z)), np.empty(z.shape)
    for rows, found, each in _log_mixtures(mean, logvar, z, log_weights, progress):
        joint[rows], units[rows] = found, each
    per_unit = units - _log_normal(z, np.zeros(1), np.zeros(1))
    total_correlation = joint - units.sum(axis=1)
    return AggregatePosterior(
        kl=estimate(own - joint + total_correlation + per_unit.sum(axis=1)),
        mutual_information=estimate(own - joint),
        total_correlation=estimate(total_correlation),
        dimension_wise_kl=estimate(per_unit.sum(axis=1)),
        unit_marginal_kl=per_unit.mean(axis=0),
    )


def _log_mixtures(
    mean: np.ndarray,
    logvar: np.ndarray,
    z: np.ndarray,
    log_weights: float | np.ndarray,
    progress: bool,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields log densities of the mixture and of its units, rows by rows.

    Yields:
      The rows, log q(z) [rows], and log q(z_j) [rows, L].
    """
    from genmod._host.bars import tqdm

    num, num_units = z.shape
    size = max(1, _BLOCK // num)
    bar = tqdm(total=num, unit="example", leave=False, disable=None if progress else True)
    means, logvars = np.ascontiguousarray(mean.T), np.ascontiguousarray(logvar.T)
    with bar:
        for first in range(0, num, size):
            rows = slice(first, min(first + size, num))
            weights = log_weights[rows] if isinstance(log_weights, np.ndarray) else log_weights
            joint = np.zeros((rows.stop - first, num))
            units = np.empty((rows.stop - first, num_units))
            for j in range(num_units):
                each = _log_normal(z[rows, j, None], means[j], logvars[j])
                joint += each
                units[:, j] = _log_sum_exp(each + weights)
            yield rows, _log_sum_exp(joint + weights), units
            bar.update(rows.stop - first)


def _log_normal(z: np.ndarray, mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    """Returns log N(z; mean, exp(logvar)) of each number."""
    scaled = (z - mean) * np.exp(-0.5 * logvar)
    return -0.5 * (np.square(scaled) + (logvar + math.log(2 * math.pi)))


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the sum of exponentials over the last axis."""
    largest = values.max(axis=1)
    return largest + np.log(np.exp(values - largest[:, None]).sum(axis=1))


def _checked(**arrays: Any) -> list[np.ndarray]:
    """Returns arrays [N, L] of one shape in float64, or refuses them."""
    found = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    shape = next(iter(found.values())).shape
    for name, array in found.items():
        if array.ndim != 2 or 0 in array.shape or array.shape != shape:
            expected = "[N, L]" if array.ndim != 2 or 0 in array.shape else str(list(shape))
            raise ValueError(f"{name} must have the shape {expected}, got {list(array.shape)}")
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise ValueError(
                f"{name} must be finite, got {array[row, column]} for example {row}, unit {column}"
            )
    return list(found.values())


def _at_least(num_examples: int, size: int) -> int:
    num = checks.positive_integer("num_examples", num_examples)
    if num < size:
        raise ValueError(f"num_examples must be at least the batch's {size}, got {num}")
    return num
