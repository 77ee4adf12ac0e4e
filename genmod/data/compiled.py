"""Functions of batches that compile themselves."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from genmod import checks
from genmod.types import Array, Batch


class Compiled:
    """Pure function `(..., key, step) -> batch` that runs as one program.

    JAX would run the many operations of a batch one by one, which takes a few hundred times as
    long. Inside of a traced function, this is the function itself: the program that calls it stays
    the same.

    Attributes:
      function: the function.
    """

    def __init__(self, function: Callable[..., Batch]):
        self.function = function
        self._compiled = jax.jit(function)

    def __call__(self, *arguments: Any) -> Batch:
        """Returns the batch of a step.

        Raises:
          ValueError: if the step is a number of Python or NumPy, but not a whole one in [0, 2**32).
        """
        *arrays, key, step = arguments
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
            return self.function(*arguments)
        return self._compiled(*arrays, key, _as_array(step))


def _as_array(step: int | Array) -> Any:
    """Returns a step with the type that it has in training, if that can hold it."""
    if isinstance(step, jax.Array):
        return step
    number = checks.seed("step", step)
    return np.int32(number) if number < 2**31 else np.uint32(number)
