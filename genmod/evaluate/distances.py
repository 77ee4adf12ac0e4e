"""Distances between two sets of features: kernel, sliced; `frechet` has that of Fréchet.

They take features of real and of generated images, [N, D] and [M, D], from any feature function.
Each is an estimate: its value for two sets of real images is not 0, and depends on N and M. So a
distance says something only beside its floor (`resampling.floor`) and its error
(`resampling.interval`), and only at the same numbers of images.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from genmod import checks, rng
from genmod.evaluate import _rows
from genmod.evaluate._legacy import legacy_generator
from genmod.types import Key

KERNEL_CONVENTIONS = ("unbiased", "torch_fidelity", "clean_fid", "nvidia")


def kernel_distance(
    real: Any, fake: Any, *, convention: str = "unbiased", progress: bool = True
) -> float:
    """Returns the kernel distance, an unbiased estimate of a squared MMD.

    With the kernel k(x, y) = (x.y / D + 1)^3 it is

        mean k(x, x') + mean k(y, y') - 2 mean k(x, y),    x != x', y != y'

    On the pool features of the Inception network it is the KID. An unbiased estimate of 0 is often
    below 0: such a number is returned as it is. Conventions:

    - `unbiased` uses all pairs. The estimate has no randomness of its own.
    - `torch_fidelity` is the mean over 100 random subsets of 1,000 rows, with torch-fidelity's
      draws; see `kernel_distance_of_subsets` for its standard deviation. Another seed gives another
      number.
    - `clean_fid` and `nvidia` average 100 subsets, too, but their draws are not seeded. The mean
      over all their draws is returned, which is that of `unbiased`.

    Args:
      real: features of real images, [N, D] with N at least 2.
      fake: features of generated images, [M, D] with M at least 2.
      convention: name of a convention, as above; `torch_fidelity` needs 1,000 rows of each.
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: if there are too few rows, shapes do not match, a number is not finite, or the
        convention is unknown.

    References:
      Bińkowski et al., Demystifying MMD GANs, ICLR 2018 (arXiv:1801.01401), section 4.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import distances
      >>> distances.kernel_distance(np.array([[1.0], [2.0]]), np.array([[0.0], [0.0]]))
      26.0
    """
    checks.known("convention", convention, KERNEL_CONVENTIONS)
    if convention == "torch_fidelity":
        return kernel_distance_of_subsets(real, fake, progress=progress).mean
    real, fake = _rows.pair(real, fake, 2)
    within = [_kernel_sum(x, None, progress) / (len(x) * (len(x) - 1)) for x in (real, fake)]
    between = _kernel_sum(real, fake, progress) / (len(real) * len(fake))
    return within[0] + within[1] - 2 * between


class Subsets(NamedTuple):
    """Mean and standard deviation of a distance over subsets.

    The standard deviation (with denominator num) is that of one small subset. It is no standard
    error of the mean.
    """

    mean: float
    std: float


def kernel_distance_of_subsets(
    real: Any, fake: Any, *, num: int = 100, size: int = 1000, progress: bool = True
) -> Subsets:
    """Returns torch-fidelity's kernel distance.

    It averages the unbiased estimate over random subsets, drawn as torch-fidelity does with its
    default seed 2020 if `real` is its input1 and `fake` its input2. The distance is symmetric, but
    the draws are not: for a number whose input1 was the generated images, swap the arguments.
    torch-fidelity computes in the features' type, this function in float64.

    Args:
      real: features of real images, [N, D].
      fake: features of generated images, [M, D].
      num: number of subsets.
      size: number of rows of a subset, at least 2.
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: if there are fewer rows than `size`, shapes do not match, or a number is not
        finite.
    """
    from genmod._host.bars import tqdm

    num, size = checks.positive_integer("num", num), checks.positive_integer("size", size)
    if size < 2:
        raise ValueError(f"size must be at least 2, got {size}")
    real, fake = _rows.pair(real, fake, size)
    generator, values = legacy_generator(), []
    for _ in tqdm(range(num), unit="subset", leave=False, disable=None if progress else True):
        some, others = (x[generator.choice(len(x), size, replace=False)] for x in (real, fake))
        values.append(kernel_distance(some, others, progress=False))
    return Subsets(float(np.mean(values)), float(np.std(values)))


def sliced_distance(key: Key, real: Any, fake: Any, *, num_projections: int = 1000) -> float:
    """Returns the sliced Wasserstein distance of two sets, scaled as MIND.

    The features are projected onto random unit vectors u, where the squared 2-Wasserstein distance
    is that of sorted numbers. The mean over all u is scaled by 3 D:

        3 D mean_u W_2^2(u.real, u.fake)

    On the pool features of the Inception network it is the MIND. It sees more than mean and
    covariance, and needs no root of a matrix. Sets of different sizes are compared by their
    quantile functions; no row is left out.

    Args:
      key: single key, for the unit vectors.
      real: features of real images, [N, D].
      fake: features of generated images, [M, D].
      num_projections: number of unit vectors.

    Returns:
      Distance, in squared units of the features. It is at least 0.

    Raises:
      ValueError: if shapes do not match or a number is not finite.

    References:
      Berthet et al., MIND: Monge Inception Distance for Generative Models Evaluation, 2026
      (arXiv:2605.06797).

    Example:
      >>> import numpy as np
      >>> from genmod import rng
      >>> from genmod.evaluate import distances
      >>> real = np.array([[1.0], [2.0], [4.0]])
      >>> distances.sliced_distance(rng.root(0), real, real + 2)
      12.0
    """
    num_projections = checks.positive_integer("num_projections", num_projections)
    real, fake = _rows.pair(real, fake, 1)
    width = real.shape[1]
    keys = rng.per_example(key, num_projections)
    drawn = jax.vmap(lambda each: jax.random.normal(each, (width,)))(keys)
    units = np.asarray(drawn, np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    at_real, at_fake, weights = _quantiles(len(real), len(fake))
    total = 0.0
    for first in range(0, num_projections, 100):
        ours, theirs = (_projected(units[first : first + 100], x) for x in (real, fake))
        total += float(np.sum((ours[:, at_real] - theirs[:, at_fake]) ** 2 @ weights))
    return 3 * width * total / num_projections


def _kernel_sum(x: np.ndarray, y: np.ndarray | None, progress: bool) -> float:
    """Returns the sum of the kernel over all pairs; without y, of different rows of x."""
    total, width = 0.0, x.shape[1]
    for rows, columns, a, b in _rows.tiles(x, y, what="kernel distance", progress=progress):
        values = (a @ b.T / width + 1) ** 3
        own = y is None and rows == columns
        times = 2 if y is None and not own else 1
        total += times * float(np.sum(values)) - (float(np.trace(values)) if own else 0.0)
    return total


def _projected(units: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns the projections of all rows onto each unit vector, sorted, [P, N]."""
    parts = [units @ features[rows].astype(np.float64).T for rows in _rows.blocks(len(features))]
    return np.sort(np.concatenate(parts, axis=1), axis=1)


def _quantiles(num: int, other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the steps of two quantile functions of N and M sorted numbers.

    Between two successive steps both functions are constant. For each such piece the result has the
    place of the number in either set, and the length of the piece; the lengths sum to 1.
    """
    ends = np.union1d(np.arange(1, num + 1) * other, np.arange(1, other + 1) * num)
    lengths = np.diff(ends, prepend=0)
    return (ends - 1) // other, (ends - 1) // num, lengths / (num * other)
