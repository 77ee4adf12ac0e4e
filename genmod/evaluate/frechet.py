"""Fréchet distance of two sets of features, its statistics and its extrapolation.

All conventions that are in use are named; they differ by up to a part in a thousand.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from genmod import checks
from genmod.evaluate import _rows
from genmod.evaluate.resampling import permutations
from genmod.types import Key


class FrechetConvention(NamedTuple):
    """Choices that differ between implementations of the Fréchet distance.

    Attributes:
      ddof: number subtracted from N in the denominator of the covariance.
      mean_in_float64: whether the mean is computed in float64 rather than in the features' type.
    """

    ddof: int
    mean_in_float64: bool


FRECHET_CONVENTIONS = {
    "torch_fidelity": FrechetConvention(ddof=1, mean_in_float64=False),
    "clean_fid": FrechetConvention(ddof=1, mean_in_float64=False),
    "nvidia": FrechetConvention(ddof=0, mean_in_float64=True),
}


class FeatureStatistics(NamedTuple):
    """Mean and covariance of features.

    Attributes:
      num: number of rows N.
      mean: mean, float64 [D].
      covariance: covariance, float64 [D, D].
    """

    num: int
    mean: np.ndarray
    covariance: np.ndarray


class _Moments(NamedTuple):
    """Mean of a set, and its covariance in the cheaper of two forms.

    Attributes:
      mean: mean, float64 [D].
      matrix: covariance [D, D], or a root R [N, D] of it: R^T R is the covariance.
      squared: whether the matrix is the covariance.
    """

    mean: np.ndarray
    matrix: np.ndarray
    squared: bool


def frechet_distance(
    real: Any, fake: Any, *, convention: str = "torch_fidelity", ddof: int | None = None
) -> float:
    """Returns the Fréchet distance of two sets of features.

    It is the squared 2-Wasserstein distance of two Gaussians with the means m and the covariances S
    of the two sets:

        |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

    On the pool features of the Inception network it is the FID. Covariances and the root are
    computed in float64. All conventions have the same root except for rounding, but

    - `torch_fidelity` and `clean_fid` (also pytorch-fid and dgm-eval) divide the covariance by
      N - 1 and compute the mean in the features' own type,
    - `nvidia` (StyleGAN2 to R3GAN) divides by N and computes the mean in float64.

    The distance of a set to itself is 0 except for rounding, which may give a number below 0; it is
    returned as it is. The estimate is biased upwards, by about a constant / N: see
    `frechet_infinity`.

    Args:
      real: features of real images, [N, D] with N at least 2.
      fake: features of generated images, [M, D] with M at least 2.
      convention: name of a convention, as above.
      ddof: number subtracted from N in the denominator of the covariance, 0 or 1; the convention's
        if None.

    Returns:
      Distance, in squared units of the features.

    Raises:
      ValueError: if there are fewer than 2 rows, shapes do not match, a number is not finite, or
        the convention is unknown.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
      Equilibrium, NeurIPS 2017 (arXiv:1706.08500).

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import frechet
      >>> real = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
      >>> round(frechet.frechet_distance(real, real + 3), 6)
      18.0
    """
    rule = _frechet_rule(convention, ddof)
    real, fake = _rows.pair(real, fake, 2)
    return _frechet(_moments(real, rule), _moments(fake, rule))


def feature_statistics(chunks: Any, *, ddof: int = 1) -> FeatureStatistics:
    """Returns mean and covariance of features, chunk by chunk.

    Only one chunk is in memory. All is computed in float64.

    Args:
      chunks: arrays [B, D], such as those of a generator; or one array [N, D].
      ddof: number subtracted from N in the denominator of the covariance: 1 as in torch-fidelity
        and clean-fid, 0 as in NVIDIA's code.

    Raises:
      ValueError: if a chunk is not [B, D] or not finite, widths differ, there are fewer than 2 rows
        in all, or ddof is neither 0 nor 1.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import frechet
      >>> chunks = (np.full((2, 3), i, np.float32) for i in range(4))
      >>> num, mean, covariance = frechet.feature_statistics(chunks)
      >>> num, mean.tolist(), covariance.shape
      (8, [1.5, 1.5, 1.5], (3, 3))
    """
    _check_ddof(ddof)
    if isinstance(chunks, np.ndarray | jax.Array):
        chunks = [_rows.matrix("chunks", chunks, 2)]
    num, mean, scatter = _scatter(chunks)
    if num < 2:
        raise ValueError(f"chunks must have at least 2 rows in all, got {num}")
    return FeatureStatistics(num, mean, scatter / (num - ddof))


def frechet_from_statistics(real: FeatureStatistics, fake: FeatureStatistics) -> float:
    """Returns the Fréchet distance of features with these statistics.

    The statistics are those of `feature_statistics`, or stored ones of another program. If there
    are fewer images than features, `frechet_distance` is faster and more accurate.

    Raises:
      ValueError: if shapes do not match, a number is not finite, or a covariance is not symmetric
        or has a variance below 0.
    """
    both = {"real": real, "fake": fake}
    for name, found in both.items():
        if not isinstance(found, FeatureStatistics):
            raise ValueError(f"{name} must be FeatureStatistics, got {checks.described(found)}")
    width = np.size(real.mean)
    for name, found in both.items():
        mean, covariance = np.asarray(found.mean), np.asarray(found.covariance)
        if mean.shape != (width,) or covariance.shape != (width, width):
            raise ValueError(
                f"{name} must have a mean [{width}] and a covariance [{width}, {width}], got "
                f"{list(mean.shape)} and {list(covariance.shape)}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        variances, uneven = np.diag(covariance), np.abs(covariance - covariance.T).max()
        if variances.min() < 0 or uneven > 1e-5 * variances.max():
            raise ValueError(
                f"{name} must have a symmetric covariance without variances below 0, got a "
                f"smallest variance of {variances.min():g} and differences across the diagonal of "
                f"up to {uneven:g}"
            )
    first, second = (
        _Moments(np.asarray(mean, np.float64), np.asarray(covariance, np.float64), squared=True)
        for _, mean, covariance in both.values()
    )
    return _frechet(first, second)


class Extrapolation(NamedTuple):
    """Fréchet distance of infinitely many generated images.

    Attributes:
      value: intercept of the line.
      error: standard error of the intercept, from the scatter about the line. The subsets overlap,
        and all are of the same images, so it is smaller than the error of a new set of images.
      slope: slope of the line, in 1 / number of images.
      sizes: number of generated images of each distance.
      distances: distances at these numbers.
    """

    value: float
    error: float
    slope: float
    sizes: np.ndarray
    distances: np.ndarray


def frechet_infinity(
    key: Key,
    real: Any,
    fake: Any,
    *,
    convention: str = "torch_fidelity",
    num_sizes: int = 15,
    progress: bool = True,
) -> Extrapolation:
    """Extrapolates the Fréchet distance to infinitely many generated images.

    The distance of M images exceeds that of infinitely many by about a constant / M, and the
    constant depends on the model. So random subsets of several sizes are measured against all real
    images, and a straight line in 1 / size is fitted; the value is its intercept. The sizes are
    evenly spaced from min(5000, M / 10) to M, as in dgm-eval.

    Args:
      key: single key, for the subsets.
      real: features of real images, [N, D].
      fake: features of generated images, [M, D], M at least 20.
      convention: name of a convention of `frechet_distance`.
      num_sizes: number of sizes, at least 3.
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: as for `frechet_distance`, or if there are too few images or sizes.

    References:
      Chong & Forsyth, Effectively Unbiased FID and Inception Score and Where to Find Them, CVPR
      2020 (arXiv:1911.07023). Stein et al., Exposing Flaws of Generative Model Evaluation Metrics,
      NeurIPS 2023 (arXiv:2306.04675).
    """
    from genmod._host.bars import tqdm

    rule = _frechet_rule(convention, None)
    if checks.positive_integer("num_sizes", num_sizes) < 3:
        raise ValueError(f"num_sizes must be at least 3, to fit a line, got {num_sizes}")
    found = _rows.alike({"real": real, "fake": fake}, 2)
    real, fake = found["real"], _rows.matrix("fake", found["fake"], 20)
    sizes = np.linspace(min(5000, len(fake) // 10), len(fake), num_sizes).astype(int)
    against, values = _moments(real, rule), []
    orders = permutations(key, num_sizes, len(fake))
    bar = tqdm(sizes, unit="subset", leave=False, disable=None if progress else True)
    for size, order in zip(bar, orders, strict=True):
        values.append(_frechet(against, _moments(fake[np.sort(order[:size])], rule)))
    values = np.array(values)
    design = np.stack([np.ones(num_sizes), 1 / sizes], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, values, rcond=None)
    residual = values - design @ [value, slope]
    variance = residual @ residual / (num_sizes - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Extrapolation(float(value), math.sqrt(variance), float(slope), sizes, values)


def _frechet_rule(convention: str, ddof: int | None) -> FrechetConvention:
    checks.known("convention", convention, FRECHET_CONVENTIONS)
    rule = FRECHET_CONVENTIONS[convention]
    if ddof is None:
        return rule
    _check_ddof(ddof)
    return rule._replace(ddof=ddof)


def _check_ddof(ddof: int) -> None:
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}")


def _moments(features: np.ndarray, rule: FrechetConvention) -> _Moments:
    num, width = features.shape
    dtype = np.float64 if rule.mean_in_float64 else features.dtype
    mean = np.asarray(np.mean(features, axis=0, dtype=dtype), np.float64)
    if num > width:
        return _Moments(mean, _scatter([features])[2] / (num - rule.ddof), squared=True)
    deviations = features - np.mean(features, axis=0, dtype=np.float64)
    return _Moments(mean, deviations / math.sqrt(num - rule.ddof), squared=False)


def _scatter(chunks: Iterable[Any]) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns number, mean and sum of the products of deviations [D, D].

    Chunks are joined by the formula of Chan et al. 1979, which is exact and never subtracts large
    numbers.
    """
    num, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for i, chunk in enumerate(chunks):
        checked = _rows.matrix(f"chunk {i}", chunk, 1)
        for rows in _rows.blocks(len(checked)):
            more = checked[rows].astype(np.float64)
            if not num:
                width = more.shape[1]
                mean, scatter = np.zeros(width), np.zeros((width, width))
            if more.shape[1] != len(mean):
                raise ValueError(
                    f"chunk {i} must have the width {len(mean)} of the others, got "
                    f"{list(more.shape)}"
                )
            own, total = more.mean(axis=0), num + len(more)
            step = own - mean
            more -= own
            scatter += more.T @ more
            scatter += np.outer(step, step * (num * len(more) / total))
            mean, num = mean + step * (len(more) / total), total
    return num, mean, scatter


def _frechet(first: _Moments, second: _Moments) -> float:
    difference = first.mean - second.mean
    traces = [
        np.trace(m.matrix) if m.squared else np.sum(m.matrix * m.matrix) for m in (first, second)
    ]
    squared = float(difference @ difference)
    return squared + float(traces[0]) + float(traces[1]) - 2 * _trace_of_root(first, second)


def _trace_of_root(first: _Moments, second: _Moments) -> float:
    """Returns the trace of the root of the product of two covariances.

    With S_1 = A^T A and S_2 = B^T B, the eigenvalues of S_1 S_2 that are not 0 are those of
    A S_2 A^T, and the squares of the singular values of A B^T. The former cost less; the latter are
    also accurate if most eigenvalues are 0, as with fewer rows than columns or with columns that
    depend on each other.
    """
    if first.squared and second.squared:
        root = _triangular_root(first.matrix)
        if root is not None:
            values = np.linalg.eigvalsh(root @ second.matrix @ root.T)
            return float(np.sum(np.sqrt(np.maximum(values, 0))))
    one, other = (_root(m.matrix) if m.squared else m.matrix for m in (first, second))
    return float(np.sum(np.linalg.svd(one @ other.T, compute_uv=False)))


def _triangular_root(covariance: np.ndarray) -> np.ndarray | None:
    """Returns R with R^T R = covariance; None if the covariance is singular to rounding."""
    try:
        root = np.linalg.cholesky(covariance).T
    except np.linalg.LinAlgError:
        return None
    pivots = np.diag(root)
    singular = pivots.min() < pivots.max() * math.sqrt(len(pivots) * np.finfo(np.float64).eps)
    return None if singular else root


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns R with R^T R = covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))).T
