"""Clusters beside classes: how well an unsupervised model has found the labels."""

import numpy as np
from numpy.typing import ArrayLike

from genmod import checks
from genmod.evaluate.averages import estimate
from genmod.evaluate.results import Result


def matched_classes(
    clusters: ArrayLike, labels: ArrayLike, *, num: int | None = None
) -> np.ndarray:
    """Matches clusters to classes, one to one, so that most examples agree.

    Args:
      clusters: cluster of each example, whole numbers of at least 0, [N].
      labels: class of each example, likewise.
      num: number of clusters, if some may have no example here; None for those that are seen.

    Returns:
      The class of each cluster, [number of clusters]; -1 for one that is left over, if there are
      more clusters than classes.

    Raises:
      ValueError: if they are not whole numbers of at least 0, or not of the same examples, or a
        cluster is not below `num`.

    Examples:
      >>> from genmod import evaluate
      >>> evaluate.matched_classes([1, 1, 0, 0, 0], [0, 0, 1, 1, 0]).tolist()
      [1, 0]
    """
    found, given = _whole("clusters", clusters), _whole("labels", labels)
    if found.shape != given.shape:
        raise ValueError(
            f"clusters and labels must be of the same examples, got {len(found)} and {len(given)}"
        )
    rows = found.max() + 1 if num is None else checks.positive_integer("num", num)
    if found.max() >= rows:
        raise ValueError(f"num must be above {found.max()}, the largest cluster, got {num}")
    counts = np.zeros((rows, given.max() + 1), np.int64)
    np.add.at(counts, (found, given), 1)
    from scipy import optimize  # slow to import, and every run imports this file

    chosen, columns = optimize.linear_sum_assignment(counts, maximize=True)
    matched = np.full(len(counts), -1)
    matched[chosen] = columns
    return matched


def clustering_accuracy(
    clusters: ArrayLike, labels: ArrayLike, *, classes: np.ndarray | None = None
) -> Result:
    """Returns the share of examples whose cluster is that of their class.

    Args:
      clusters: cluster of each example, whole numbers of at least 0, [N].
      labels: class of each example, likewise.
      classes: class of each cluster, from `matched_classes` of other examples. None matches them by
        these examples, as papers do: the accuracy is then the best of all matchings.

    Returns:
      The accuracy, in [0, 1], with its standard error over the examples.

    Raises:
      ValueError: if the arguments are not as above, or a cluster is not among those of `classes`.
    """
    if classes is None:
        classes = matched_classes(clusters, labels)
    found, given = _whole("clusters", clusters), _whole("labels", labels)
    if found.shape != given.shape or found.max() >= len(classes):
        raise ValueError(
            f"clusters must be numbers below {len(classes)}, the number of matched ones, one for "
            f"each of {len(given)} labels, got {len(found)} of at most {found.max()}"
        )
    return Result(*estimate(np.asarray(classes[found] == given, np.float64)))


def _whole(name: str, values: ArrayLike) -> np.ndarray:
    found = np.asarray(values)
    whole = found.ndim == 1 and len(found) and np.issubdtype(found.dtype, np.integer)
    if not whole or found.min() < 0:
        raise ValueError(
            f"{name} must be whole numbers of at least 0, one for each example, got "
            f"{found.dtype} {list(found.shape)}"
        )
    return found
