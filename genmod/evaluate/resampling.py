"""Errors and floors of a distance between two sets, from subsets of their rows.

They serve any function `(real, fake) -> number`, such as `frechet.frechet_distance`, and sets of
features or of anything else with one row per image.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import numpy as np

from genmod import checks, rng
from genmod.types import Key

Distance = Callable[[Any, Any], float]
"""Function `(real [N, ...], fake [M, ...]) -> number`."""


class Interval(NamedTuple):
    """Distance with its standard error and a confidence interval.

    Attributes:
      value: distance of all rows.
      error: its standard error.
      lower: lower end of the interval.
      upper: upper end of the interval.
    """

    value: float
    error: float
    lower: float
    upper: float


class Floor(NamedTuple):
    """Distance of real images from real images.

    Attributes:
      mean: mean over random splits.
      std: standard deviation over random splits, by which the distance of one set of perfect
        samples scatters.
    """

    mean: float
    std: float


def interval(
    key: Key,
    function: Distance,
    real: Any,
    fake: Any,
    *,
    num: int = 50,
    level: float = 0.95,
    progress: bool = True,
) -> Interval:
    """Returns a distance with its standard error and a confidence interval.

    The distance is computed for random halves of both sets, drawn without replacement. The standard
    deviation over halves is the standard error of all rows (a jackknife that deletes half of the
    rows): a mean of N/2 of N rows varies about the mean of all as much as the latter about the
    truth. The interval is value +- z * error, with z of the normal distribution.

    A bootstrap with replacement would be wrong here. Its sets hold copies of rows: the Fréchet and
    the kernel distance grow by them, radii of nearest neighbours shrink. A half has no copies. Its
    distance may have another mean, as a Fréchet distance of fewer images is larger, but the
    standard deviation is not changed by that.

    The interval is for the mean of the estimate at these numbers of images. It is no interval for
    infinitely many, and does not correct a bias. If both sets have the same distribution, the
    Fréchet and the kernel distance vary only in second order, and the error is too large, by a
    factor of up to 3^(1/2).

    Args:
      key: single key, for the halves.
      function: the distance.
      real: rows of real images, [N, ...] with N at least 4.
      fake: rows of generated images, [M, ...] with M at least 4.
      num: number of halves, at least 2. The error has a relative error of about 1 / sqrt(2 num).
      level: probability that the interval holds the mean, in (0, 1).
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: if there are too few rows or halves, level is not in (0, 1), or the function does
        not return a finite number.

    See Also:
      `intervals`, for a function that returns several distances.

    References:
      Shao & Wu, A General Theory for Jackknife Variance Estimation, Annals of Statistics 17 (1989).

    Example:
      >>> import numpy as np
      >>> from genmod import rng
      >>> from genmod.evaluate import resampling
      >>> real, fake = np.arange(100.0), np.arange(100.0) + 5
      >>> found = resampling.interval(rng.root(0), lambda a, b: b.mean() - a.mean(), real, fake)
      >>> found.value, found.lower < 5 < found.upper
      (5.0, True)
    """
    return intervals(key, function, real, fake, num=num, level=level, progress=progress)


def intervals(
    key: Key,
    function: Callable[[Any, Any], Any],
    real: Any,
    fake: Any,
    *,
    num: int = 50,
    level: float = 0.95,
    progress: bool = True,
) -> Any:
    """Returns several distances, each with its standard error and interval.

    Args:
      key: single key, for the halves.
      function: `(real [N, ...], fake [M, ...]) -> tree of numbers`, such as
        `neighbours.precision_recall_density_coverage`, which is called once for each half.
      real: rows of real images, [N, ...] with N at least 4.
      fake: rows of generated images, [M, ...] with M at least 4.
      num: number of halves, at least 2.
      level: probability that an interval holds the mean, in (0, 1).
      progress: whether a progress bar is shown on a terminal.

    Returns:
      Tree with an `Interval`, as of `interval`, in place of each number.

    Raises:
      ValueError: if there are too few rows or halves, level is not in (0, 1), or the function does
        not return finite numbers.

    Example:
      >>> import numpy as np
      >>> from genmod import rng
      >>> from genmod.evaluate import resampling
      >>> real, fake = np.arange(100.0), np.arange(100.0) + 5
      >>> both = lambda a, b: {"mean": b.mean() - a.mean(), "std": b.std() - a.std()}
      >>> found = resampling.intervals(rng.root(0), both, real, fake)
      >>> found["mean"].value, found["std"].value
      (5.0, 0.0)
    """
    if checks.positive_integer("num", num) < 2:
        raise ValueError(f"num must be at least 2, got {num}")
    if not checks.is_finite_number(level) or not 0 < level < 1:
        raise ValueError(f"level must be a number in (0, 1), got {level!r}")
    sets = {"real": np.asarray(real), "fake": np.asarray(fake)}
    for name, rows in sets.items():
        if not rows.ndim or len(rows) < 4:
            raise ValueError(f"{name} must have at least 4 rows, got {list(rows.shape)}")
    value, structure = jax.tree.flatten(function(*sets.values()))
    _refuse_others(value)
    values = []
    orders = [permutations(rng.stream(key, name), num, len(x)) for name, x in sets.items()]
    for both in _bar(list(zip(*orders, strict=True)), progress):
        halves = [x[order[: len(x) // 2]] for x, order in zip(sets.values(), both, strict=True)]
        values.append(jax.tree.leaves(function(*halves)))
        _refuse_others(values[-1])
    errors = np.std(np.array(values, np.float64), axis=0, ddof=1)
    z = NormalDist().inv_cdf((1 + level) / 2)

    def around(value: Any, error: float) -> Interval:
        return Interval(float(value), error, float(value) - z * error, float(value) + z * error)

    return structure.unflatten(map(around, value, errors.tolist()))


def floor(
    key: Key,
    function: Distance,
    real: Any,
    *,
    num_real: int,
    num_fake: int,
    num: int = 10,
    progress: bool = True,
) -> Floor:
    """Returns the distance of real images from other real images.

    It is what perfect samples would score. In each random split, `num_real` rows stand for the real
    images, and `num_fake` others for the generated ones: give the numbers of the distance that
    shall be compared with the floor, because the floor depends on them.

    Args:
      key: single key, for the splits.
      function: the distance.
      real: rows of real images, [N, ...] with N at least num_real + num_fake.
      num_real: number of rows in place of the real images.
      num_fake: number of rows in place of the generated images.
      num: number of splits, at least 2. If N is not much larger than both numbers together, the
        splits are alike.
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: if a number is not positive, there are too few splits or rows, or the function
        does not return a finite number.

    Example:
      >>> import jax
      >>> from genmod import rng
      >>> from genmod.evaluate import frechet, resampling
      >>> real = jax.random.normal(rng.root(1), (500, 3))
      >>> found = resampling.floor(
      ...     rng.root(0), frechet.frechet_distance, real, num_real=200, num_fake=200
      ... )
      >>> 0 < found.mean < 0.2
      True
    """
    num, num_real, num_fake = (
        checks.positive_integer(name, value)
        for name, value in (("num", num), ("num_real", num_real), ("num_fake", num_fake))
    )
    real = np.asarray(real)
    if not real.ndim or len(real) < num_real + num_fake:
        raise ValueError(
            f"real must have at least num_real + num_fake = {num_real + num_fake} rows, got "
            f"{list(real.shape)}"
        )
    if num < 2:
        raise ValueError(f"num must be at least 2, got {num}")
    values = []
    for order in _bar(permutations(key, num, len(real)), progress):
        ours, theirs = order[:num_real], order[num_real : num_real + num_fake]
        values.append(function(real[ours], real[theirs]))
        _refuse_others(values[-1:])
    return Floor(float(np.mean(values)), float(np.std(values)))


def _refuse_others(values: Sequence[Any]) -> None:
    if not all(np.ndim(value) == 0 and np.isfinite(value) for value in values):
        raise ValueError(f"function must return finite numbers, got {values}")


def permutations(key: Key, num: int, size: int) -> np.ndarray:
    """Returns random orders of the numbers from 0 to size - 1, [num, size]."""
    keys = rng.per_example(key, num)
    return np.asarray(jax.vmap(jax.random.permutation, in_axes=(0, None))(keys, size))


def _bar(draws: Any, progress: bool) -> Any:
    from genmod._host.bars import tqdm

    return tqdm(draws, unit="draw", leave=False, disable=None if progress else True)
