"""Weights of the KL term: over the steps of training, and between groups of latents.

A schedule is a function `step -> value`, for the `hyper` of a learner. Those of optax are such
functions: `optax.linear_schedule(0.0, 1.0, num_steps)` warms a weight up.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array


def cyclical(
    *, period: int, ramp: float = 0.5, largest: float = 1.0
) -> Callable[[int | Array], Array]:
    """Returns the cyclical schedule of a weight.

        value = largest * min(1, (step mod period) / (ramp * period))

    In each cycle the weight rises from 0 in a line, then stays at its largest value. Cycles follow
    one another as long as training goes on; the paper has four of them.

    Args:
      period: number of steps of a cycle.
      ramp: share of the cycle in which the weight rises, above 0 and at most 1.
      largest: largest value of the weight, at least 0.

    Returns:
      A function `step -> value []`.

    Raises:
      ValueError: if period is not positive, ramp not in (0, 1], or largest below 0.

    References:
      Fu et al., Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing, 2019
      (arXiv:1903.10145), equations 6 and 7.

    Examples:
      >>> from genmod import vae
      >>> schedule = vae.cyclical(period=8)
      >>> [float(schedule(step)) for step in range(10)]
      [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.0, 0.25]
    """
    period = checks.positive_integer("period", period)
    if not (checks.is_finite_number(ramp) and 0 < ramp <= 1):
        raise ValueError(f"ramp must be a number above 0 and at most 1, got {ramp!r}")
    checks.not_negative("largest", largest)

    def schedule(step: int | Array) -> Array:
        return largest * jnp.minimum(1.0, jnp.mod(step, period) / (ramp * period))

    return schedule


def balanced(kl: Array, *, sizes: Sequence[int] | None = None) -> Array:
    """Returns the KL divergence of groups of latents, balanced between the groups.

        sum_g w_g KL_g,    w_g in proportion to (mean over the batch of |KL_g| + 0.01) / size_g

    This is the KL balancing of NVAE, for hierarchies, in which some groups may fall silent early in
    training: a group of little information is penalised little. The weights have the mean 1 over
    groups and are constants to the gradient. It is for warm-up only, as balanced terms are not
    those of a bound; afterwards the sum of the groups' KL divergences takes its place.

    The other KL balancing, of Dreamer, gives the prior and the posterior different learning rates
    and is not this one.

    An objective that uses this function looks at its whole batch.

    Args:
      kl: KL divergence of each group in nats, [B, G], such as that of each layer of a hierarchy, or
        estimates of them.
      sizes: number of latents of each group, [G]; equal ones if None.

    Returns:
      [B], in nats, in float32 at least.

    Raises:
      ValueError: if kl is not [B, G], or sizes are not G positive whole numbers.

    References:
      Vahdat & Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020 (arXiv:2007.03898),
      appendix A; the 0.01 nats are of the authors' code.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> round(float(vae.balanced(jnp.array([[2.99, 0.99]]))[0]), 2)  # 1.5 * 2.99 + 0.5 * 0.99
      4.98
    """
    if kl.ndim != 2:
        raise ValueError(f"kl must be of the groups of a batch, [B, G], got {list(kl.shape)}")
    sizes = [1] * kl.shape[1] if sizes is None else list(sizes)
    if len(sizes) != kl.shape[1]:
        raise ValueError(f"sizes must be those of the {kl.shape[1]} groups, got {len(sizes)}")
    counts = np.array([checks.positive_integer("sizes", size) for size in sizes])
    kl = kl.astype(checks.summed_as(kl.dtype))
    weights = jax.lax.stop_gradient(jnp.abs(kl).mean(0) + 0.01) / counts
    return (kl * (weights / weights.mean())[None]).sum(1)
