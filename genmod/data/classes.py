"""Disjoint folds of labelled examples."""

import jax
import numpy as np

from genmod import checks, rng
from genmod.types import Key


def fold(key: Key, labels: np.ndarray, num: int, index: int) -> np.ndarray:
    """Returns the indices of a balanced fold.

    A fold holds `num` examples of each class. The examples of each class are permuted by the key
    and cut into folds. Folds of the same key and `num` have no example in common.

    Args:
      key: key of the permutation.
      labels: whole numbers from 0, [N].
      num: number of examples of each class.
      index: number of the fold, from 0.

    Returns:
      Indices, int32 [num * classes], in ascending order.

    Raises:
      ValueError: if num is not positive or index negative, or a class has too few examples.
    """
    checks.positive_integer("num", num)
    if index < 0:
        raise ValueError(f"index must be a whole number of at least 0, got {index}")
    chosen = []
    for label in np.unique(labels).tolist():
        indices = np.flatnonzero(labels == label)
        if len(indices) < (index + 1) * num:
            raise ValueError(
                f"fold {index} of {num} examples a class needs {(index + 1) * num} of class "
                f"{label}, which has {len(indices)}"
            )
        mixed = np.asarray(jax.random.permutation(rng.at_step(key, label), len(indices)))
        chosen.append(indices[mixed[index * num : (index + 1) * num]])
    return np.sort(np.concatenate(chosen)).astype(np.int32)
