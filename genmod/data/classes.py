"""Disjoint folds of labelled examples, and batches with balanced classes.

The examples are in the order that `genmod.nets.conditional` and `per_class` expect: example i of a
fold or of a batch has the class i mod the number of classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.data.order import indices_at
from genmod.data.protocols import Prepare, prepared, unit_interval
from genmod.types import Array, Batch, BatchAt, Key


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
      Indices, int32 [num * classes]; entry i is an example of class i mod classes.

    Raises:
      ValueError: if num is not positive or index negative, or a class has too few examples.
    """
    checks.positive_integer("num", num)
    if index < 0:
        raise ValueError(f"index must be a whole number of at least 0, got {index}")
    columns = []
    for label in range(int(np.max(labels)) + 1):
        indices = np.flatnonzero(labels == label)
        if len(indices) < (index + 1) * num:
            raise ValueError(
                f"fold {index} of {num} examples a class needs {(index + 1) * num} of class "
                f"{label}, which has {len(indices)}"
            )
        mixed = np.asarray(jax.random.permutation(rng.at_step(key, label), len(indices)))
        columns.append(indices[mixed[index * num : (index + 1) * num]])
    return np.stack(columns, axis=1).ravel().astype(np.int32)


def balanced_batches(
    examples: Batch, classes: int, *, batch_size: int, prepare: Prepare = unit_interval
) -> BatchAt:
    """Makes batches with equally many examples of each class.

    Each class runs through its own shuffled epochs.

    Args:
      examples: an array [N, ...], or a tree of them; example i has the class i mod classes.
      classes: number of classes, a divisor of N and batch_size.
      batch_size: number of examples B in the batch, at most N.
      prepare: `(keys [B], raw examples) -> batch`, as in `data.batch_at`.

    Returns:
      A `BatchAt` that carries the examples as leaves of a tree, as that of `data.batches` does.
      Example i of a batch has the class i mod classes.

    Raises:
      ValueError: if classes does not divide N and batch_size, if batch_size is not positive or
        larger than the data, or if prepare refuses the examples.
    """
    sizes = {
        "the number of examples": checks.leading_axis("examples", examples),
        "batch_size": checks.positive_integer("batch_size", batch_size),
    }
    for name, size in sizes.items():
        if size % checks.positive_integer("classes", classes):
            raise ValueError(f"{name} must be a multiple of the {classes} classes, got {size}")
    at = functools.partial(_balanced_batch_at, classes, batch_size, prepare)
    take = jax.tree_util.Partial(at, jax.tree.map(jnp.asarray, examples))
    jax.eval_shape(take, rng.root(0), 0)
    return take


def _balanced_batch_at(
    classes: int, batch_size: int, prepare: Prepare, examples: Batch, key: Key, step: int | Array
) -> Batch:
    labels = jnp.arange(classes)
    num = checks.leading_axis("examples", examples) // classes

    def rows_of(label: Array) -> Array:
        own = rng.at_step(rng.stream(key, "class"), label)
        return indices_at(own, step, num, batch_size=batch_size // classes)

    rows = jax.vmap(rows_of, out_axes=1)(labels)
    index = (rows * classes + labels[None]).ravel()
    return prepared(prepare, key, step, jax.tree.map(lambda leaf: leaf[index], examples))
