"""Measures by nearest neighbours: fidelity, coverage, copies of training images.

They take features [N, D] from any feature function. Distances are Euclidean. All pairs are compared
tile by tile, so that the memory does not grow with N * M.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.evaluate import _rows
from genmod.evaluate.averages import Estimate, estimate


class PrecisionRecall(NamedTuple):
    """Precision, recall, density and coverage.

    Attributes:
      precision: share of the generated images near a real one, in [0, 1].
      recall: share of the real images near a generated one, in [0, 1].
      density: number of balls of real images that hold a generated image, on average, over k. It
        may exceed 1.
      coverage: share of the real images whose ball holds a generated image, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(
    real: Any, fake: Any, *, k: int = 5, inclusive: bool = False, progress: bool = True
) -> PrecisionRecall:
    """Returns precision, recall, density and coverage of generated images.

    Each image has a ball, whose radius r is the distance to its k-th nearest neighbour in its own
    set. With d_ij between real image i and generated image j:

        precision = mean_j any_i (d_ij < r_i)
        recall    = mean_i any_j (d_ij < r_j)
        density   = mean_j sum_i (d_ij < r_i) / k
        coverage  = mean_i any_j (d_ij < r_i)

    The defaults are those of prdc. torch-fidelity and NVIDIA's code compute precision and recall
    with k=3 and inclusive=True. Both agree except for the choice of k unless distances are the
    same, as those of copies are: k + 1 copies of an image have a ball with radius 0, which holds
    nothing if it is not inclusive. (Before its version 0.4.0, torch-fidelity returned precision as
    recall and recall as precision.)

    Args:
      real: features of real images, [N, D] with N above k.
      fake: features of generated images, [M, D] with M above k.
      k: number of neighbours.
      inclusive: whether an image at the distance r is in the ball: `<=` in place of `<`.
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: if there are too few images, shapes do not match, a number is not finite, or all
        images of a set have the same features: all radii are then 0.

    References:
      Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020
      (arXiv:2002.09797). Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing
      Generative Models, NeurIPS 2019 (arXiv:1904.06991).

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import neighbours
      >>> real, fake = np.arange(8.0)[:, None], np.array([[0.5], [1.5], [99.0], [98.0]])
      >>> neighbours.precision_recall_density_coverage(real, fake, k=1)
      PrecisionRecall(precision=0.5, recall=0.375, density=1.0, coverage=0.375)
    """
    k = checks.positive_integer("k", k)
    real, fake = _rows.pair(real, fake, k + 1)
    _rows.refuse_constant({"real": real, "fake": fake}, "a k-th neighbour has no distance")
    of_real, of_fake = (_radii(x, k, progress) for x in (real, fake))
    balls = np.zeros(len(fake), np.int64)
    covered, recalled = (np.zeros(len(real), bool) for _ in range(2))
    within = np.less_equal if inclusive else np.less
    for rows, columns, found in _rows.distances(real, fake, what="coverage", progress=progress):
        in_real = within(found, of_real[rows, None])
        balls[columns] += np.count_nonzero(in_real, axis=0)
        covered[rows] |= in_real.any(axis=1)
        recalled[rows] |= within(found, of_fake[None, columns]).any(axis=1)
    return PrecisionRecall(
        precision=float(np.mean(balls > 0)),
        recall=float(np.mean(recalled)),
        density=float(np.mean(balls)) * (1 / k),
        coverage=float(np.mean(covered)),
    )


def authenticity(train: Any, samples: Any, *, progress: bool = True) -> Estimate:
    """Returns the share of samples that are no copies of training images.

    With i the training image nearest to a sample, the sample is authentic if the distance of i to
    its own nearest training image is smaller than that to the sample:

        min_j d(train_i, train_j) < d(train_i, sample),    j != i

    New images of the data's own distribution do not score 1, but about 1/2: compare with the score
    of held-out images.

    Args:
      train: features of all training images, [N, D] with N at least 2.
      samples: features of generated images, [M, D].
      progress: whether a progress bar is shown on a terminal.

    Returns:
      Share in [0, 1] with its standard error over samples.

    Raises:
      ValueError: if there are too few images, shapes do not match, a number is not finite, or all
        training images have the same features.

    References:
      Alaa et al., How Faithful is your Synthetic Data?, ICML 2022 (arXiv:2102.08921).

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import neighbours
      >>> train = np.array([[0.0], [1.0], [2.0], [3.0]])
      >>> neighbours.authenticity(train, train[:2]).mean
      0.0
    """
    train = _rows.matrix("train", train, 2)
    both = _rows.alike({"train": train, "samples": samples}, 1)
    _rows.refuse_constant({"train": train}, "no training image is nearer than another")
    distance, index = _nearest(both["samples"], train, progress)
    # Few training images are the nearest one of a sample.
    used, place = np.unique(index, return_inverse=True)
    return estimate(_from_others(train, used, progress)[place] < distance)


class Copying(NamedTuple):
    """Comparison of samples with held-out images, by their distance to training images.

    Attributes:
      share: share of the pairs of a sample and a held-out image in which the sample is nearer to
        its nearest training image, half of the ties included. It is 1/2 for perfect samples, 1 for
        copies of training images.
      z: C_T, the z-score of the Mann-Whitney test. It is about a standard normal number for perfect
        samples; far below 0 for copies, far above 0 for samples unlike the training images.
    """

    share: float
    z: float


def copying(
    train: Any, held_out: Any, samples: Any, *, centers: Any = None, progress: bool = True
) -> Copying:
    """Tests whether samples are nearer to training images than held-out images are.

    With the distances d of a sample q and of a held-out image p to the nearest training image:

        U = number of pairs with d(q) > d(p),    z = (U - nm / 2) / sqrt(nm (n + m + 1) / 12)

    With `centers`, space is divided into cells, those of the nearest centre. z is computed in each
    cell, and the mean of z is weighted by the cell's share of the held-out images. A model may copy
    in one cell and make poor images in another, which the test without cells does not see. Cells
    without any sample are left out, as in the paper with tau = 0. The mean of z over C equal cells
    has a standard deviation of 1 / sqrt(C) for perfect samples.

    The test needs held-out images of the same distribution as the training images. A z-score grows
    with the square root of n and m, `share` does not.

    Args:
      train: features of all training images, [N, D].
      held_out: features of held-out images, [n, D].
      samples: features of generated images, [m, D].
      centers: centres of the cells, [C, D], such as those of k-means of training images; None for a
        single cell.
      progress: whether a progress bar is shown on a terminal.

    Raises:
      ValueError: if shapes do not match, a number is not finite, a cell has no training image or no
        held-out one, or all training images have the same features.

    References:
      Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models, AISTATS 2020
      (arXiv:2004.05675).

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import neighbours
      >>> train, held_out = np.array([[0.0], [1.0], [2.0]]), np.array([[0.4], [1.6]])
      >>> neighbours.copying(train, held_out, train + 0.01).share
      1.0
    """
    sets = {"train": train, "held_out": held_out, "samples": samples}
    sets = _rows.alike(sets if centers is None else {**sets, "centers": centers}, 1)
    _rows.refuse_constant({"train": sets["train"]}, "no image is nearer to them than another")
    if centers is None:
        return _copying(sets["train"], sets["held_out"], sets["samples"], progress)
    middle = sets.pop("centers")
    cells = {name: _nearest(x, middle, progress)[1] for name, x in sets.items()}
    counts = {name: np.bincount(cell, minlength=len(middle)) for name, cell in cells.items()}
    for name in ("train", "held_out"):
        if not counts[name].all():
            raise ValueError(
                f"centers must have images of {name} in each of the {len(middle)} cells, got none "
                f"in cell {int(counts[name].argmin())}; give fewer centers"
            )
    used = np.flatnonzero(counts["samples"])
    found = []
    for cell in used:
        inside = {name: x[cells[name] == cell] for name, x in sets.items()}
        found.append(_copying(**inside, progress=progress))
    weights = counts["held_out"][used] / counts["held_out"][used].sum()
    share, z = weights @ np.array(found)
    return Copying(float(share), float(z))


def _copying(
    train: np.ndarray, held_out: np.ndarray, samples: np.ndarray, progress: bool
) -> Copying:
    ours, theirs = (_nearest(x, train, progress)[0] for x in (samples, held_out))
    ordered, pairs = np.sort(theirs), len(ours) * len(theirs)
    # A tie counts one half on either side.
    below = np.searchsorted(ordered, ours, "left") + np.searchsorted(ordered, ours, "right")
    farther = float(np.sum(below)) / 2
    deviation = math.sqrt(pairs * (len(ours) + len(theirs) + 1) / 12)
    return Copying(share=1 - farther / pairs, z=(farther - pairs / 2) / deviation)


def _radii(x: np.ndarray, k: int, progress: bool) -> np.ndarray:
    """Returns the distance of each row to its k-th nearest other row, float32 [N]."""
    nearest = np.full((len(x), k), np.inf, np.float32)

    def add(rows: slice, found: np.ndarray) -> None:
        candidates = np.concatenate([nearest[rows], found], axis=1)
        nearest[rows] = np.partition(candidates, k - 1, axis=1)[:, :k]

    for rows, columns, found in _rows.distances(x, what="radii", progress=progress):
        add(rows, found)
        if rows != columns:
            add(columns, found.T)
    return nearest.max(axis=1)


def _from_others(x: np.ndarray, used: np.ndarray, progress: bool) -> np.ndarray:
    """Returns the distance of some rows to their nearest other row, float32 [len(used)]."""
    nearest = np.full((len(used), 2), np.inf, np.float32)
    for rows, _, found in _rows.distances(x[used], x, what="radii", progress=progress):
        candidates = np.concatenate([nearest[rows], found], axis=1)
        nearest[rows] = np.partition(candidates, 1, axis=1)[:, :2]
    return nearest[:, 1]  # the nearest row is the row itself, at the distance 0


def _nearest(x: np.ndarray, others: np.ndarray, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance of each row to the nearest of others, and its number."""
    distance, index = np.full(len(x), np.inf, np.float32), np.zeros(len(x), np.int64)
    for rows, columns, found in _rows.distances(x, others, what="neighbours", progress=progress):
        place = found.argmin(axis=1)
        least = np.take_along_axis(found, place[:, None], axis=1)[:, 0]
        nearer = least < distance[rows]
        index[rows] = np.where(nearer, columns.start + place, index[rows])
        distance[rows] = np.minimum(distance[rows], least)
    return distance, index
