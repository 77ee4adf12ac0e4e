"""Likelihoods p(x|z), as functions of the decoder's output."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.types import Array, Key, Keys


class Likelihood(NamedTuple):
    """Distribution over images, given the decoder's output.

    Attributes:
      log_prob: log p(x|z) in nats, `(output, x [B, H, W, C]) -> [B]`.
      mean: the expected image, `output -> images [B, H, W, C]`.
      support: least and largest value of x in the distribution's support, such as (0, 1). Images
        outside it are refused when training begins. None if any value is allowed.
      sample: one draw per key, `(keys [B], output) -> images [B, H, W, C]`; None if there is none.
    """

    log_prob: Callable[[Any, Array], Array]
    mean: Callable[[Any], Array]
    support: tuple[float, float] | None = None
    sample: Callable[[Keys, Any], Array] | None = None


@jax.custom_jvp
def _cross_entropy(logits: Array, x: Array) -> Array:
    """Returns the sum of softplus(logits) - logits * x over the last axis, [B, P] -> [B].

    With the magnitudes m = |logits|, softplus(logits) = max(logits, 0) + log(1 + exp(-m)). The
    logarithms of eight pixels are the logarithm of a product, which takes less time and cannot
    overflow: each factor is at most 2.
    """
    dtype = checks.summed_as(jnp.result_type(logits, x))
    num = math.gcd(8, logits.shape[1])
    logits, x = (a.reshape(a.shape[0], num, -1) for a in (logits, x))
    excess = jnp.exp(-jnp.abs(logits)).astype(dtype)
    linear = (jnp.maximum(logits, 0) - logits * x).astype(dtype)
    zero = np.zeros((), dtype)
    excess, linear = jax.lax.reduce((excess, linear), (zero, zero), _combined, (1,))
    return row_sums(linear + jnp.log1p(excess))


def _combined(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Combines (product of factors - 1, sum) of two groups of pixels.

    (1 + p)(1 + q) - 1 = p + (q + pq), which keeps every digit of a small p.
    """
    return a[0] + (b[0] + a[0] * b[0]), a[1] + b[1]


@_cross_entropy.defjvp
def _cross_entropy_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (logits, x), (d_logits, d_x) = primals, tangents
    change = (jax.nn.sigmoid(logits) - x) * d_logits - logits * d_x
    return _cross_entropy(logits, x), row_sums(change)


def row_sums(values: Array) -> Array:
    """Sums the last axis as a product with ones, in float32 at least."""
    # XLA's CPU backend is fastest so: see docs/performance.md.
    return jnp.matmul(
        values,
        jnp.ones(values.shape[-1], values.dtype),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=checks.summed_as(values.dtype),
    )


def _bernoulli_log_prob(logits: Array, x: Array) -> Array:
    """Returns log p(x | logits) in nats.

        log p(x | logits) = sum of x log sigmoid(logits) + (1 - x) log sigmoid(-logits)

    The sum is over all pixels. For grey values between 0 and 1 this is minus the customary cross
    entropy, not the logarithm of a density.

    Args:
      logits: the decoder's output, [B, H, W, C].
      x: floating images [B, H, W, C], in [0, 1].

    Returns:
      [B], at most 0, in float32 at least.

    Raises:
      ValueError: if the shapes differ, or x is not floating.
    """
    check_images("the decoder's logits", logits, x, within=", in [0, 1]")
    flat = (x.shape[0], -1)
    return -_cross_entropy(logits.reshape(flat), x.reshape(flat))


def check_images(what: str, output: Array, x: Array, *, within: str = "") -> None:
    """Refuses images of another shape than a decoder's output, or that are not floating.

    Args:
      what: name of the output, for messages.
      output: the decoder's output, or a part of it.
      x: the images.
      within: text that names the range of the images.
    """
    if output.shape != x.shape:
        raise ValueError(f"{what} must have the images' shape {x.shape}, got {output.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating{within}, got {x.dtype} (scale them first); "
            "prepare=data.unit_interval makes them so of uint8 images"
        )


def _bernoulli_sample(keys: Keys, logits: Array) -> Array:
    def draw(key: Key, logits: Array) -> Array:
        return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)

    return jax.vmap(draw)(keys, logits)


bernoulli = Likelihood(_bernoulli_log_prob, jax.nn.sigmoid, (0, 1), _bernoulli_sample)
"""Independent Bernoulli pixels, from logits.

References:
  Kingma & Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114), appendix C.1.
"""


def mean_logits(mean: Array | np.ndarray, *, margin: float = 1e-3) -> Array:
    """Returns the logits of an average image.

        logits = log(p / (1 - p)),    p = mean, kept away from 0 and 1

    They are a good initial output bias of a Bernoulli decoder. A decoder whose bias starts at zero
    spends its first thousand steps on learning which pixels are always black.

    Args:
      mean: average image, floating, in [0, 1].
      margin: least distance of the probabilities p from 0 and from 1.

    Returns:
      Logits, of mean's shape.

    Raises:
      ValueError: if a value is not in [0, 1]. Traced values are not checked.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519).
    """
    if not isinstance(mean, jax.core.Tracer):
        checks.values_within("mean", mean, (0, 1), "a probability", hint=False)
    p = jnp.clip(mean, margin, 1 - margin)
    return jnp.log(p) - jnp.log1p(-p)
