"""An objective over a whole data set: every example once, none dropped."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Batch, Key, Keys, Objective, Params


class Estimate(NamedTuple):
    """A mean over examples with its standard error."""

    mean: float
    error: float


def estimate(values: Array | np.ndarray) -> Estimate:
    """Mean and standard error of independent values [N], in float64.

    The error of one value is not a number (NaN): nothing is known of how others would differ from
    it. Nor is that of values that are not all finite.

    Raises:
      ValueError: if values have another shape, or there are none.
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
    """An objective's loss and aux values for each example of a data set.

    Example i draws from key i: the result does not depend on batch_size (but for rounding). A
    network that knows the class by place refuses batches that are no multiple of its classes.

    Args:
      key: a single key.
      params: the model's parameters.
      examples: [N, ...], or a tree of such arrays; images may be streamed.
      objective: `(keys [B], params, batch) -> (loss [B], aux)`.
      batch_size: how many examples to hold at once; a smaller last batch takes what is left.
      prepare: `(keys [B], raw examples) -> batch`, as in `data.batch_at`; nothing is done if None.

    Returns:
      `loss` and each aux value, as they are, [N].

    Raises:
      ValueError: if batch_size is not positive, or the objective returns something else than above.
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
    """The values of one batch: all examples there are, or one of several chunks of them."""
    index = first + jnp.arange(checks.leading_axis("batch", batch))

    def keys_of(name: str) -> Keys:
        return jax.vmap(rng.at_step, in_axes=(None, 0))(rng.stream(key, name), index)

    if prepare is not None:
        batch = prepare(keys_of("prepare"), batch)
    keys = keys_of("objective")
    with devices.cut("batch_size", chunk) if chunk else contextlib.nullcontext():
        loss, aux = checks.objective(objective(keys, params, batch), len(keys))
    return {"loss": loss, **aux}
