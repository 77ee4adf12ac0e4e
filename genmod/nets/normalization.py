"""Normalisation layers that are pure functions: no running averages, no hidden state."""

import jax.numpy as jnp
from flax import linen
from jax import lax

from genmod import checks, devices
from genmod.types import Array

MOMENTS = "moments"
"""The collection in which `BatchNorm` leaves the moments of a batch, where it is asked to."""


class BatchNorm(linen.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) of x [B, ..., C].

    Every channel gets mean 0 and variance 1 over all other axes of the batch in the call (the
    variance is the mean squared deviation), then a learned scale and bias. Where the parameters
    hold a "mean" and a "variance" beside these, as `Net.standing` returns them, they take the
    place of the batch's own, and each example is alone. In a step that is mapped over devices the
    moments are those of the whole batch, of which each device holds an equal part.

    Attributes:
      epsilon: added to the variance.
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
            mean, variance = moments(x)
            if gathering:
                self.put_variable(MOMENTS, "mean", mean)
                self.put_variable(MOMENTS, "variance", variance)
        factor = scale * lax.rsqrt(variance + self.epsilon)
        return (x - _as_last_axis(mean, x)) * _as_last_axis(factor, x) + _as_last_axis(bias, x)


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance [C] of x [B, ..., C] over all but the last axis, and over devices."""
    axes = tuple(range(x.ndim - 1))
    mean = devices.mean(x.mean(axes))
    # Not the mean of squares less the square of the mean: float32 loses the difference of the two
    # where the mean is large.
    return mean, devices.mean(jnp.square(x - _as_last_axis(mean, x)).mean(axes))


def pooled(mean: Array, variance: Array) -> tuple[Array, Array]:
    """Mean and variance [C] of K equal batches together, from those of each, [K, C].

    The variance is the mean of squares over all batches less the square of the mean over all.
    """
    overall = mean.mean(0)
    return overall, variance.mean(0) + jnp.square(mean - overall[None]).mean(0)


def normalizer(
    norm: str | None, channels: int, *, groups: int | None, name: str
) -> linen.Module | None:
    """The layer called `norm` for x [B, ..., C], None for None.

    Group normalisation is Wu and He's (2018, arXiv:1803.08494), each example on its own.
    """
    if norm is None:
        return None
    if norm == "batch":
        return BatchNorm(name=name)
    return linen.GroupNorm(
        num_groups=default_groups(channels) if groups is None else groups,
        epsilon=1e-5,
        use_fast_variance=False,
        name=name,
    )


def default_groups(channels: int) -> int:
    """The most groups, at most 32, that divide the channels into eight or more each; or one."""
    # Few values a group would leave a dense layer little more than their signs.
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 8))


def check(norm: str | None, groups: int | None, channels: tuple[int, ...]) -> None:
    """Refuses unknown normalisations, and groups that do not divide the channels of a layer."""
    if norm is not None:
        checks.known("norm", norm, ("batch", "group"))
    if groups is None:
        return
    if norm != "group":
        raise ValueError(f"groups must be None unless norm is 'group', got {groups} for {norm!r}")
    for count in channels:
        if count % checks.positive_integer("groups", groups):
            raise ValueError(f"groups must divide the channels {count}, got {groups}")


def _as_last_axis(values: Array, x: Array) -> Array:
    return values.reshape((1,) * (x.ndim - 1) + (-1,))
