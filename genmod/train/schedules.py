"""Learning rates over the steps of training.

A schedule is a function `step -> value`, for an optimizer of optax or for the `hyper` of a learner.
"""

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from genmod import checks
from genmod.types import Array


def cosine(peak: float | Array, *, steps: int) -> optax.Schedule:
    """Returns a cosine with warm restarts.

        rate = peak / 2 * (1 + cos(pi * step / steps))

    After `steps` the rate is zero. Training that goes on starts again at half the peak, and falls
    to zero in half as many steps, once or as often as it takes. So a run can be carried on after
    its end, and its first part is bit for bit that of the shorter run.

    Args:
      peak: learning rate of the first step.
      steps: number of steps to the first zero.

    Returns:
      A function `step -> rate []`.

    Raises:
      ValueError: if steps is not positive.

    References:
      Loshchilov & Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017
      (arXiv:1608.03983), equation 5; halves at restarts are a choice of genmod.

    Examples:
      >>> from genmod import train
      >>> rate = train.cosine(1.0, steps=4)
      >>> [round(float(rate(step)), 2) for step in range(9)]
      [1.0, 0.85, 0.5, 0.15, 0.5, 0.25, 0.5, 0.25, 0.5]
    """
    steps = checks.positive_integer("steps", steps)
    shorter = max(1, steps // 2)
    first = optax.cosine_decay_schedule(peak, steps)
    later = optax.cosine_decay_schedule(peak / 2, shorter)

    def schedule(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        return jnp.where(step < steps, first(step), later((step - steps) % shorter))

    return schedule
