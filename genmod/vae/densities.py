"""Likelihoods of pixels with other values than 0 and 1.

The output of a decoder has one or several numbers for each value of a pixel: its last axis holds
the first number of all channels, then the second one, and so on.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key, Keys
from genmod.vae.likelihoods import Likelihood, check_images, row_sums

_LEVELS = 256
"""Number of values of a byte."""


def continuous_bernoulli() -> Likelihood:
    """Returns the continuous Bernoulli, a density on [0, 1], from logits [B, H, W, C].

        log p(x | logits) = sum of x logit + log(1 - lambda) + log C,    lambda = sigmoid(logit),
        C = logit / tanh(logit / 2)

    It is the cross entropy of grey values with the normaliser C that makes it a density.

    References:
      Loaiza-Ganem & Cunningham, The continuous Bernoulli: fixing a pervasive error in variational
      autoencoders, 2019 (arXiv:1907.06845).

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> one = jnp.zeros((1, 1, 1, 1))  # a logit of 0 is the uniform density
      >>> vae.continuous_bernoulli().log_prob(one, one + 0.3).tolist()
      [0.0]
    """

    def log_prob(logits: Array, x: Array) -> Array:
        check_images("logits", logits, x)
        # The term besides x logit is log(m / (1 - exp(-m))) - max(logit, 0) with m = |logit|.
        small = jnp.abs(logits) < 0.3
        safe = jnp.where(small, 1.0, logits)
        magnitude = jnp.abs(safe)
        far = jnp.log(magnitude) - jnp.log(-jnp.expm1(-magnitude)) - jnp.maximum(safe, 0)
        series = -logits / 2 - logits**2 / 24 + logits**4 / 2880
        return _sum(x * logits + jnp.where(small, series, far))

    def mean(logits: Array) -> Array:
        small = jnp.abs(logits) < 0.3
        safe = jnp.where(small, 1.0, logits)
        series = 0.5 + logits / 12 - logits**3 / 720 + logits**5 / 30240
        return jnp.where(small, series, -1 / jnp.expm1(-safe) - 1 / safe)

    def sample(keys: Keys, logits: Array) -> Array:
        def inverse(u: Array, logits: Array) -> Array:
            # Of the density that falls from 0 to 1; that which rises is its mirror.
            magnitude = jnp.maximum(jnp.abs(logits), 1e-3)
            falling = -jnp.log1p(u * jnp.expm1(-magnitude)) / magnitude
            return jnp.clip(jnp.where(logits > 0, 1 - falling, falling), 0, 1)

        return _per_example(jax.random.uniform, inverse)(keys, logits)

    return Likelihood(log_prob, mean, (0, 1), sample)


def gaussian(*, std: float | None = None) -> Likelihood:
    """Returns independent Gaussian pixels.

    Args:
      std: standard deviation of all pixels; the decoder's output are the means [B, H, W, C]. If
        None, it is learned: the output [B, H, W, 2 C] holds the means, then the logarithms of the
        standard deviations; or it is a pair (means, log stds) of shapes that can be broadcast, such
        as one number for all pixels.

    Raises:
      ValueError: if std is not positive; when called, if the output has another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> x = jnp.zeros((1, 1, 1, 1))
      >>> round(float(vae.gaussian(std=1.0).log_prob(x, x)[0]), 4)
      -0.9189
    """

    def log_density(x: Array, mean: Array, log_std: Array) -> Array:
        scaled = (x - mean) * jnp.exp(-log_std)
        return -0.5 * jnp.square(scaled) - log_std - 0.5 * math.log(2 * math.pi)

    return _location_scale(log_density, jax.random.normal, std, "std")


def laplace(*, scale: float | None = None) -> Likelihood:
    """Returns independent Laplace pixels: exp(-|x - mean| / scale) / (2 scale).

    Args:
      scale: scale of all pixels; None if it is learned, as the standard deviation of `gaussian`.

    Raises:
      ValueError: if scale is not positive; when called, if the output has another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> x = jnp.zeros((1, 1, 1, 1))
      >>> round(float(vae.laplace(scale=0.5).log_prob(x, x)[0]), 4)
      0.0
    """

    def log_density(x: Array, mean: Array, log_scale: Array) -> Array:
        return -jnp.abs(x - mean) * jnp.exp(-log_scale) - log_scale - math.log(2)

    return _location_scale(log_density, jax.random.laplace, scale, "scale")


def discretised_logistic(*, num_mixtures: int = 1) -> Likelihood:
    """Returns pixels of 256 values, each a mixture of discretised logistic distributions.

        p(x) = sum_k w_k (F_k(x + 1/510) - F_k(x - 1/510)),    F_k(x) = sigmoid((x - m_k) / s_k)

    The values x are 0, 1/255, ..., 1; the bins of 0 and 1 reach to infinity. The channels of a
    pixel are independent. The decoder's output is [B, H, W, 2 C] with the locations m, then the
    logarithms of the scales s. With K mixtures it is [B, H, W, 3 K C]: all locations of the first
    component, of the second one, ..., then the log-scales, then the logits of the weights w.

    Args:
      num_mixtures: number of components K.

    Raises:
      ValueError: if num_mixtures is not positive; when called, if the output has another shape.

    References:
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016
      (arXiv:1606.04934), appendix C.5. Salimans et al., PixelCNN++, 2017 (arXiv:1701.05517),
      equation 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> wide = jnp.full((1, 1, 1, 2), 9.0)  # nearly all of it is below 0
      >>> x = jnp.zeros((1, 1, 1, 1))
      >>> vae.discretised_logistic().log_prob(wide, x).shape
      (1,)
    """
    num = checks.positive_integer("num_mixtures", num_mixtures)
    half = 0.5 / (_LEVELS - 1)

    def parts(output: Array) -> tuple[Array, Array, Array]:
        """Returns locations, log-scales and log-weights, [K, B, H, W, C]."""
        kinds = 2 if num == 1 else 3
        channels, rest = divmod(output.shape[-1], kinds * num)
        if rest or not channels:
            raise ValueError(
                f"the decoder's output must have {kinds * num} numbers for each channel, got "
                f"{list(output.shape)}"
            )
        found = output.reshape(*output.shape[:-1], kinds, num, channels)
        found = jnp.moveaxis(found, (-3, -2), (0, 1))
        logits = found[2] if num > 1 else jnp.zeros_like(found[0])
        return found[0], found[1], jax.nn.log_softmax(logits, axis=0)

    def log_prob(output: Array, x: Array) -> Array:
        location, log_scale, log_weight = parts(output)
        check_images("the decoder's locations", location[0], x)
        x, inverse = x[None], jnp.exp(-log_scale)
        above, below = ((x - location + side) * inverse for side in (half, -half))
        # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)), without cancellation.
        inside = jnp.log(-jnp.expm1(-2 * half * inverse))
        # Half a bin of slack: values of other precisions are those of the nearest byte.
        lower = jnp.where(x < half, 0.0, jax.nn.log_sigmoid(-below))
        upper = jnp.where(x > 1 - half, 0.0, jax.nn.log_sigmoid(above))
        edge = (x < half) | (x > 1 - half)
        each = lower + upper + jnp.where(edge, 0.0, inside)
        return _sum(jax.nn.logsumexp(each + log_weight, axis=0))

    def mean(output: Array) -> Array:
        location, log_scale, log_weight = parts(output)
        inverse, weight = jnp.exp(-log_scale), jnp.exp(log_weight)

        def with_level(level: Array, total: Array) -> Array:
            edge = (level - 0.5) / (_LEVELS - 1)
            return total + (weight * jax.nn.sigmoid((location - edge) * inverse)).sum(0)

        # The mean of a whole number is the sum of the probabilities to be j or more.
        start = jnp.zeros(location.shape[1:], location.dtype)
        return jax.lax.fori_loop(1, _LEVELS, with_level, start) / (_LEVELS - 1)

    def sample(keys: Keys, output: Array) -> Array:
        location, log_scale, log_weight = (jnp.moveaxis(part, 0, 1) for part in parts(output))

        def draw(key: Key, location: Array, log_scale: Array, log_weight: Array) -> Array:
            chosen = jax.random.categorical(rng.stream(key, "component"), log_weight, axis=0)[None]
            at, scale = (
                jnp.take_along_axis(each, chosen, axis=0)[0] for each in (location, log_scale)
            )
            noise = jax.random.logistic(rng.stream(key, "noise"), at.shape)
            drawn = at + jnp.exp(scale) * noise
            return jnp.round(jnp.clip(drawn, 0, 1) * (_LEVELS - 1)) / (_LEVELS - 1)

        return jax.vmap(draw)(keys, location, log_scale, log_weight)

    return Likelihood(log_prob, mean, (0, 1), sample)


def categorical() -> Likelihood:
    """Returns pixels of 256 values, each with a probability of its own.

    The values x are 0, 1/255, ..., 1. The decoder's output are logits [B, H, W, 256 C]: those of
    the value 0 of all channels, then of the next one.

    Raises:
      ValueError: when called, if the output has another shape.

    References:
      van den Oord et al., Pixel Recurrent Neural Networks, 2016 (arXiv:1601.06759), section 2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> logits, x = jnp.zeros((1, 2, 2, 256)), jnp.zeros((1, 2, 2, 1))
      >>> round(float(vae.categorical().log_prob(logits, x)[0]), 4)  # 4 log(1/256)
      -22.1807
    """

    def split(output: Array) -> Array:
        """Returns the logits of each value, [B, H, W, 256, C]."""
        channels, rest = divmod(output.shape[-1], _LEVELS)
        if rest or not channels:
            raise ValueError(
                f"the decoder's output must have {_LEVELS} logits for each channel, got "
                f"{list(output.shape)}"
            )
        return output.reshape(*output.shape[:-1], _LEVELS, channels)

    def log_prob(output: Array, x: Array) -> Array:
        logits = split(output)
        check_images("the decoder's logits of one value", logits[..., 0, :], x)
        # With the values of a pixel side by side in memory this is ten times as fast on a CPU.
        rows = jnp.moveaxis(logits, -2, -1).reshape(-1, _LEVELS)
        rows = rows.astype(checks.summed_as(rows.dtype))
        level = jnp.round(x * (_LEVELS - 1)).astype(jnp.int32).reshape(-1, 1)
        largest = jax.lax.stop_gradient(rows.max(1, keepdims=True))
        log_total = jnp.log(jnp.exp(rows - largest).sum(1, keepdims=True)) + largest
        return _sum((jnp.take_along_axis(rows, level, 1) - log_total).reshape(x.shape))

    def mean(output: Array) -> Array:
        values = jnp.arange(_LEVELS, dtype=output.dtype).reshape(1, 1, 1, -1, 1) / (_LEVELS - 1)
        return (jax.nn.softmax(split(output), axis=-2) * values).sum(-2)

    def sample(keys: Keys, output: Array) -> Array:
        draw = jax.vmap(lambda key, logits: jax.random.categorical(key, logits, axis=-2))
        return draw(keys, split(output)).astype(output.dtype) / (_LEVELS - 1)

    return Likelihood(log_prob, mean, (0, 1), sample)


def _location_scale(
    log_density: Callable[[Array, Array, Array], Array],
    noise: Callable[..., Array],
    scale: float | None,
    name: str,
) -> Likelihood:
    """Returns pixels location + scale * noise, with a fixed or a learned scale."""
    if scale is not None:
        checks.positive(name, scale)

    def parts(output: Array | tuple[Array, Array]) -> tuple[Array, Array]:
        if scale is not None:
            return output, jnp.full((), math.log(scale), output.dtype)  # pyrefly: ignore
        if isinstance(output, tuple):
            location, log_scale = output
            return location, jnp.broadcast_to(log_scale, location.shape)
        if output.shape[-1] % 2:
            raise ValueError(
                f"the decoder's output must hold a location and a log {name} for each channel, got "
                f"{list(output.shape)}"
            )
        location, log_scale = jnp.split(output, 2, axis=-1)
        return location, log_scale

    def log_prob(output: Array | tuple[Array, Array], x: Array) -> Array:
        location, log_scale = parts(output)
        check_images("the decoder's locations", location, x)
        return _sum(log_density(x, location, log_scale))

    def sample(keys: Keys, output: Array | tuple[Array, Array]) -> Array:
        location, log_scale = parts(output)
        drawn = _per_example(noise, lambda own, location: own)(keys, location)
        return location + jnp.exp(log_scale) * drawn

    return Likelihood(log_prob, lambda output: parts(output)[0], None, sample)


def _per_example(
    noise: Callable[..., Array], function: Callable[[Array, Array], Array]
) -> Callable[[Keys, Array], Array]:
    """Returns a function of one key per example and their outputs [B, ...]."""

    def draw(key: Key, output: Array) -> Array:
        return function(noise(key, output.shape, output.dtype), output)

    return jax.vmap(draw)


def _sum(values: Array) -> Array:
    """Sums over all pixels, [B, ...] -> [B], in float32 at least."""
    return row_sums(values.reshape(len(values), -1))
