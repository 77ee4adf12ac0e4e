"""Gradient penalties by finite differences of the critic."""

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.gan.penalties import Critic, Penalty, of_examples, packs
from genmod.types import Array, Key, Keys


def approximate_r1(sigma: float | Array) -> Penalty:
    """Returns R1 by a finite difference, which needs no second derivative.

        ((D(x + sigma e) - D(x)) / sigma)^2,    x real,    e ~ N(0, I)

    Its expectation tends to that of `r1`, |grad D(x)|^2, if sigma tends to 0. It is the same at any
    sigma if the critic is linear. The value of one draw is then that of `r1` times a chi-squared
    number with one degree of freedom: its standard deviation is sqrt(2) times its mean. For the
    critic x' A x with a symmetric A, the expectation is larger than `r1` by

        sigma^2 (tr(A)^2 + 2 tr(A^2))

    If sigma is too small, the difference is lost in the rounding of D: in float32 use 1e-3 at
    least for logits around 1, and no bfloat16 images.

    It serves critics whose second derivative is missing or slow. It does not save operations: for
    64 MNIST images, `nets.dcgan_discriminator(width=16)` and a tiny generator, a step takes 1.6
    times the operations of one without a penalty, and 1.4 times with `r1`.

    If the critic judges packs, the examples of a pack share its value in equal parts: their sum is
    the value of the pack, as that of `r1` is.

    Args:
      sigma: standard deviation of the noise in each pixel, above 0.

    Raises:
      ValueError: if sigma is not a positive number.

    References:
      Lin et al., Diffusion Adversarial Post-Training for One-Step Video Generation, 2025
      (arXiv:2501.08316), which does not divide by sigma^2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import gan, rng
      >>> penalty = 0.5 * gan.approximate_r1(0.01)
      >>> flat = lambda x: jnp.ones(len(x))  # a critic without any gradient
      >>> x = jnp.ones((3, 1))
      >>> penalty(rng.per_example(rng.root(0), 3), flat, x, x).tolist()
      [0.0, 0.0, 0.0]
    """
    _check_sigma(sigma)

    def approximate_r1(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        del fake
        return _squared_slope(keys, critic, real, sigma)

    return Penalty.of(approximate_r1)


def approximate_r2(sigma: float | Array) -> Penalty:
    """Returns R2 by a finite difference, which needs no second derivative.

        ((D(x + sigma e) - D(x)) / sigma)^2,    x generated,    e ~ N(0, I)

    It is to `r2` what `approximate_r1` is to `r1`.

    Args:
      sigma: standard deviation of the noise in each pixel, above 0.

    Raises:
      ValueError: if sigma is not a positive number.

    References:
      Lin et al., Autoregressive Adversarial Post-Training for Real-Time Interactive Video
      Generation, 2025 (arXiv:2506.09350), which does not divide by sigma^2.
    """
    _check_sigma(sigma)

    def approximate_r2(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        del real
        return _squared_slope(keys, critic, fake, sigma)

    return Penalty.of(approximate_r2)


def _check_sigma(sigma: float | Array) -> None:
    if not isinstance(sigma, jax.core.Tracer):
        checks.positive("sigma", sigma)


def _squared_slope(keys: Keys, critic: Critic, x: Array, sigma: float | Array) -> Array:
    """Returns the critic's squared slope in a random direction at each example, [B]."""

    def draw(key: Key) -> Array:
        return jax.random.normal(key, x.shape[1:], x.dtype)

    checks.keys(keys, len(x))
    moved = x + jnp.asarray(sigma, x.dtype) * jax.vmap(draw)(keys)
    after, before = critic(moved), critic(x)
    num = packs(before, len(x))
    wide = checks.summed_as(before.dtype)
    slope = (after.astype(wide) - before.astype(wide)) / sigma
    return of_examples(jnp.square(slope) * (num / len(x)), len(x)).astype(wide)
