"""Averages of an objective over a whole data set.

Every example is used once; none is dropped.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.data.protocols import Prepare, Preprocessing, as_function
from genmod.evaluate import programs
from genmod.types import Array, Batch, Key, Objective, Params


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
    prepare: Prepare | None = None,
) -> dict[str, np.ndarray]:
    """Computes an objective's loss and aux values for each example.

    Example i has its own key, so the result does not depend on batch_size (except for rounding).
    Objectives that compute the same share one compiled program, even if each call makes a new one,
    such as `objective=vae.elbo(model)`.

    Args:
      key: single key.
      params: parameters of the model.
      examples: array [N, ...], or a tree of such arrays, such as {"image": ..., "label": ...};
        images may be streamed.
      objective: function `(keys [B], params, batch) -> (loss [B], aux)`. Notes, if it returns any,
        are not used.
      batch_size: number of examples in a batch; the last batch may be smaller.
      prepare: function `(keys [B], raw examples) -> batch`, or such functions by field, as in
        `data.batch_at`; raw examples are the batch if None.

    Returns:
      `loss` and each aux value by name, [N], not averaged. An aux value `name` [B, K] becomes
      `name/0` to `name/K-1`.

    Raises:
      ValueError: if batch_size is not positive, there are no examples or they are of several parts,
        the objective looks at its whole batch (it has a true attribute `whole_batch`) and
        batch_size is smaller than N, or it does not return what is described above.
    """
    if prepare is not None:
        prepare = as_function(prepare)
    num = programs.number_of(examples)
    batch_size = min(num, checks.positive_integer("batch_size", batch_size))
    if batch_size < num and getattr(objective, "whole_batch", False):
        raise ValueError(
            f"batch_size must be at least the number of examples {num}, as the objective looks at "
            f"its whole batch, got {batch_size}"
        )
    compute = programs.Programs(_values, objective, prepare)
    parts = [
        compute(key, params, batch, first)
        for first, batch in programs.batches(examples, batch_size)
    ]
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def on_test(
    objective: Objective,
    examples: Batch,
    *,
    prepare: Prepare | None = None,
    loss: str = "loss",
    part: str = "test",
) -> Callable[[Key, Any], dict[str, float]]:
    """Returns the evaluation of an experiment by an objective on test data.

    Args:
      objective: function `(keys [B], params, batch) -> (loss [B], aux)`.
      examples: test data, as for `over_examples`.
      prepare: preprocessing, as for `over_examples`.
      loss: name of the loss, such as "negative_elbo".
      part: part of the data that the examples are, such as "val" for those on which a model is
        chosen.

    Returns:
      A function `(key, state) -> numbers by name`, for `Experiment.evaluate`. The parameters are
      those from which samples are drawn, so a moving average if there is one. The numbers are
      `test_NAME` for the loss and each aux value, a mean over the examples, and
      `test_LOSS_standard_error`, with the name of the part for "test".

    Raises:
      ValueError: at once if there are no examples; when called, as for `over_examples`.
    """
    programs.number_of(examples)

    def evaluate(key: Key, state: Any) -> dict[str, float]:
        from genmod.train import drawn_from  # now: most who import this module train nothing

        params = drawn_from(state)
        values = over_examples(key, params, examples, objective=objective, prepare=prepare)
        mean, error = estimate(values.pop("loss"))
        others = {f"{part}_{name}": estimate(value).mean for name, value in values.items()}
        return {f"{part}_{loss}": mean, **others, f"{part}_{loss}_standard_error": error}

    return evaluate


def _values(
    objective: Objective,
    prepare: Preprocessing | None,
    key: Key,
    params: Params,
    batch: Batch,
    first: int | Array,
) -> dict[str, Array]:
    """Computes loss and aux values of the examples from number `first` on."""
    num = checks.leading_axis("batch", batch)
    batch = programs.prepared(prepare, key, batch, first)
    keys = programs.keys_of(key, "objective", first, num)
    returned = checks.objective(objective(keys, params, batch), num)
    return {"loss": returned.losses, **returned.aux}
