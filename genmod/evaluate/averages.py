"""Averages of an objective over a whole data set.

Every example is used once; none is dropped.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Batch, Key, Keys, Objective, Params


class Estimate(NamedTuple):
    """Mean over examples with its standard error."""

    mean: float
    error: float


def estimate(values: Array | np.ndarray) -> Estimate:
    """Returns mean and standard error of independent values [N].

    Both are computed in float64. The standard error of a single value is NaN, because nothing is
    known about how other values would differ from it. It is also NaN if not all values are finite.

    Raises:
      ValueError: if values have another shape, or there are no values.

    Example:
      >>> import numpy as np
      >>> from genmod import evaluate
      >>> evaluate.estimate(np.array([1.0, 1.0, 1.0, 5.0]))
      Estimate(mean=2.0, error=1.0)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must have the shape [N] with N >= 1, got {list(values.shape)}")
    if len(values) == 1:
        return Estimate(float(values[0]), math.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        error = values.std(ddof=1) / np.sqrt(len(values))
        return Estimate(float(values.mean()), float(error))


def over_examples(
    key: Key,
    params: Params,
    examples: Batch,
    *,
    objective: Objective,
    batch_size: int = 500,
    prepare: Callable[[Keys, Batch], Batch] | None = None,
) -> dict[str, np.ndarray]:
    """Computes an objective's loss and aux values for each example.

    Example i has its own key, so the result does not depend on batch_size (except for rounding). A
    network that knows an example's class by its index in the batch refuses batches whose size is
    not a multiple of the number of classes.

    Args:
      key: single key.
      params: parameters of the model.
      examples: array [N, ...], or a tree of such arrays; images may be streamed.
      objective: function `(keys [B], params, batch) -> (loss [B], aux)`.
      batch_size: number of examples in a batch; the last batch may be smaller.
      prepare: function `(keys [B], raw examples) -> batch`, as in `data.batch_at`; raw examples are
        the batch if None.

    Returns:
      `loss` and each aux value by name, [N], not averaged.

    Raises:
      ValueError: if batch_size is not positive, or the objective does not return what is described
        above.
    """
    num = checks.leading_axis("examples", examples)
    batch_size = min(num, checks.positive_integer("batch_size", batch_size))
    chunk = batch_size if batch_size < num else None
    parts = []
    for first in range(0, num, batch_size):
        rows = slice(first, min(first + batch_size, num))
        some = jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)
        parts.append(_values(objective, prepare, chunk, key, params, some, first))
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def on_test(
    objective: Objective,
    examples: Batch,
    *,
    prepare: Callable[[Keys, Batch], Batch] | None = None,
    loss: str = "loss",
) -> Callable[[Key, Any], dict[str, float]]:
    """Returns the evaluation of an experiment by an objective on test data.

    Args:
      objective: function `(keys [B], params, batch) -> (loss [B], aux)`.
      examples: test data, as for `over_examples`.
      prepare: preprocessing, as for `over_examples`.
      loss: name of the loss, such as "negative_elbo".

    Returns:
      A function `(key, state) -> numbers by name`, for `Experiment.evaluate`. They are `test_NAME`
      for the loss and each aux value, a mean over the test data, and `test_LOSS_standard_error`.
    """

    def evaluate(key: Key, state: Any) -> dict[str, float]:
        values = over_examples(key, state.params, examples, objective=objective, prepare=prepare)
        mean, error = estimate(values.pop("loss"))
        others = {f"test_{name}": estimate(value).mean for name, value in values.items()}
        return {f"test_{loss}": mean, **others, f"test_{loss}_standard_error": error}

    return evaluate


@functools.partial(jax.jit, static_argnames=("objective", "prepare", "chunk"))
def _values(
    objective: Objective,
    prepare: Callable[[Keys, Batch], Batch] | None,
    chunk: int | None,
    key: Key,
    params: Params,
    batch: Batch,
    first: int | Array,
) -> dict[str, Array]:
    """Computes loss and aux values of one batch.

    The batch holds all examples if chunk is None; else it is one of several chunks of them, of this
    size (the last may be smaller).
    """
    index = first + jnp.arange(checks.leading_axis("batch", batch))

    def keys_of(name: str) -> Keys:
        return jax.vmap(rng.at_step, in_axes=(None, 0))(rng.stream(key, name), index)

    if prepare is not None:
        batch = prepare(keys_of("prepare"), batch)
    keys = keys_of("objective")
    with devices.cut("batch_size", chunk) if chunk else contextlib.nullcontext():
        loss, aux = checks.objective(objective(keys, params, batch), len(keys))
    return {"loss": loss, **aux}
