"""Normalisation layers without running averages or hidden state."""

import jax.numpy as jnp
from flax import linen
from jax import lax

from genmod import checks, devices
from genmod.types import Array

MOMENTS = "moments"
"""Name of the flax collection of batch moments.

`BatchNorm` writes the moments of its batch there if the collection is mutable.
"""


class BatchNorm(linen.Module):
    """Batch normalisation of x [B, ..., C].

    Every channel gets mean 0 and variance 1 over all other axes of the batch in the call (the
    variance is the mean squared deviation), then a learned scale and bias. If the parameters also
    hold a "mean" and a "variance", as `Net.standing` returns them, these standing statistics
    replace those of the batch, and examples no longer interact. In a step that is mapped over
    devices the statistics are those of the whole batch, of which each device holds an equal part.
    A microbatch cannot know them, so microbatches are refused (ValueError).

    Attributes:
      epsilon: number added to the variance.

    References:
      Ioffe & Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal
      Covariate Shift, 2015 (arXiv:1502.03167).
    """

    epsilon: float = 1e-5

    @linen.compact
    def __call__(self, x: Array) -> Array:
        """Returns x [B, ..., C], normalised."""
        channels = x.shape[-1]
        scale = self.param("scale", linen.initializers.ones, (channels,))
        bias = self.param("bias", linen.initializers.zeros, (channels,))
        gathering = self.is_mutable_collection(MOMENTS)
        if not gathering and self.has_variable("params", "mean"):
            mean = self.get_variable("params", "mean")
            variance = self.get_variable("params", "variance")
        else:
            layer = "/".join(self.path) or type(self).__name__
            if devices.in_microbatch():
                raise ValueError(
                    f"batch normalisation ({layer}) needs the statistics of the whole batch, which "
                    "microbatches do not know: microbatches must be 1 with it (norm='group' is the "
                    "same in microbatches)"
                )
            mean, variance = moments(x)
            devices.uses_batch_statistics(layer)
            if gathering:
                self.put_variable(MOMENTS, "mean", mean)
                self.put_variable(MOMENTS, "variance", variance)
        factor = scale * lax.rsqrt(variance + self.epsilon)
        return (x - _as_last_axis(mean, x)) * _as_last_axis(factor, x) + _as_last_axis(bias, x)


def moments(x: Array) -> tuple[Array, Array]:
    """Returns the mean and variance of each channel.

    They are over all axes but the last, and over the devices of a mapped step.

    Args:
      x: batch [B, ..., C].

    Returns:
      Mean and variance, [C] each.
    """
    axes = tuple(range(x.ndim - 1))
    mean = devices.mean(x.mean(axes))
    # The formula mean(x^2) - mean(x)^2 would lose all digits in float32 if the mean is large.
    return mean, devices.mean(jnp.square(x - _as_last_axis(mean, x)).mean(axes))


def pooled(mean: Array, variance: Array) -> tuple[Array, Array]:
    """Returns the mean and variance of several batches together.

    All K batches have the same size. The pooled variance is the mean of the batches' variances plus
    the variance of their means.

    Args:
      mean: means of the batches, [K, C].
      variance: variances of the batches, [K, C].

    Returns:
      Mean and variance, [C] each.
    """
    overall = mean.mean(0)
    return overall, variance.mean(0) + jnp.square(mean - overall[None]).mean(0)


def normalizer(
    norm: str | None, channels: int, *, groups: int | None, name: str
) -> linen.Module | None:
    """Returns the normalisation layer called `norm`.

    The layer is for inputs [B, ..., C]. If `norm` is None there is no layer, and None is returned.
    Group and layer normalisation do not mix examples. Layer normalisation is over the channels of
    each example, or of each of its pixels.

    References:
      Wu & He, Group Normalization, 2018 (arXiv:1803.08494).
      Ba et al., Layer Normalization, 2016 (arXiv:1607.06450).
    """
    if norm is None:
        return None
    if norm == "batch":
        return BatchNorm(name=name)
    if norm == "layer":
        return linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)
    return linen.GroupNorm(
        num_groups=default_groups(channels) if groups is None else groups,
        epsilon=1e-5,
        use_fast_variance=False,
        name=name,
    )


def default_groups(channels: int) -> int:
    """Returns the default number of groups.

    It is the largest number up to 32 that divides the channels into equal groups of at least eight;
    1 if there is none.
    """
    # In a dense layer, a group of few values would keep little more than their signs.
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 8))


def check(norm: str | None, groups: int | None, channels: tuple[int, ...]) -> None:
    """Checks the arguments of a normalisation.

    Its name must be known, and groups must divide the channels of every layer.
    """
    if norm is not None:
        checks.known("norm", norm, ("batch", "group", "layer"))
    if groups is None:
        return
    if norm != "group":
        raise ValueError(f"groups must be None unless norm is 'group', got {groups} for {norm!r}")
    for count in channels:
        if count % checks.positive_integer("groups", groups):
            raise ValueError(f"groups must divide the channels {count}, got {groups}")


def _as_last_axis(values: Array, x: Array) -> Array:
    return values.reshape((1,) * (x.ndim - 1) + (-1,))
