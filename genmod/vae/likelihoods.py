"""Likelihoods p(x|z), as functions of what the decoder puts out."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array


class Likelihood(NamedTuple):
    """A distribution over images, given the decoder's output.

    Attributes:
      log_prob: `(output, x [B, H, W, C]) -> [B]`, in nats.
      mean: `output -> images [B, H, W, C]`, the expected image.
      support: least and largest value of x that it is a distribution over, such as (0, 1). Images
        outside it are refused when training begins. None where any value will do.
    """

    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    support: tuple[float, float] | None = None


def _cross_entropy(logits: Array, x: Array) -> Array:
    """softplus(logits) - logits * x, arranged so that nothing overflows or cancels."""
    # One choice of branch throughout, instead of max and abs: these have a derivative of their own
    # at 0, where the second derivative would come out as 0.
    positive = logits >= 0
    magnitude = jnp.where(positive, logits, -logits)
    return jnp.where(positive, logits, 0) - logits * x + jnp.log1p(jnp.exp(-magnitude))


def _bernoulli_log_prob(logits: Array, x: Array) -> Array:
    """Log p(x | logits) in nats, summed over all pixels.

    x log sigmoid(l) + (1 - x) log sigmoid(-l), for x in [0, 1]: for grey values between 0 and 1
    it is the cross entropy that is customary, not the logarithm of a density.

    Args:
      logits: [B, H, W, C].
      x: floating, [B, H, W, C], in [0, 1].

    Returns:
      [B], at most 0.

    Raises:
      ValueError: if the shapes differ, or x is not floating.
    """
    if logits.shape != x.shape:
        raise ValueError(
            f"the decoder's logits must have the images' shape {x.shape}, got {logits.shape}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating, in [0, 1], got {x.dtype} (scale them first); "
            "prepare=data.unit_interval makes them so of uint8 images"
        )
    # Two things let XLA use a CPU's vectors here. Pixels in one axis: of [B, 28, 28, 1] it would
    # loop over the last, of length 1 (a tenth of the article's step). And a sum as a product with
    # ones: in a reduction it would compute the cross entropy one number after another (half).
    flat = (x.shape[0], -1)
    per_pixel = _cross_entropy(logits.reshape(flat), x.reshape(flat))
    ones = jnp.ones(per_pixel.shape[1], per_pixel.dtype)
    return -jnp.matmul(per_pixel, ones, precision=jax.lax.Precision.HIGHEST)


bernoulli = Likelihood(log_prob=_bernoulli_log_prob, mean=jax.nn.sigmoid, support=(0, 1))
"""Independent Bernoulli pixels, from logits (Kingma & Welling 2014, appendix C.1)."""


def mean_logits(mean: Array | np.ndarray, *, margin: float = 1e-3) -> Array:
    """The logits of an average image: where a Bernoulli decoder's output bias should begin.

    Burda et al. (2016) start there: a decoder that begins at zero spends its first thousand steps
    finding out which pixels are always black.

    Args:
      mean: average image, floating, in [0, 1].
      margin: probabilities are kept this far from 0 and 1.

    Returns:
      log(p / (1 - p)), of mean's shape.

    Raises:
      ValueError: if a value is not in [0, 1]; of traced ones nothing is known.
    """
    if not isinstance(mean, jax.core.Tracer):
        checks.values_within("mean", mean, (0, 1), "a probability", hint=False)
    p = jnp.clip(mean, margin, 1 - margin)
    return jnp.log(p) - jnp.log1p(-p)
