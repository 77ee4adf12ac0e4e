"""Normalisation layers without running averages or hidden state."""

from typing import Any

import jax.numpy as jnp
from flax import linen
from jax import lax

from genmod import checks, devices
from genmod.nets import conditions
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
        mean, variance = _statistics(self, x)
        factor = scale * lax.rsqrt(variance + self.epsilon)
        return (x - _as_last_axis(mean, x)) * _as_last_axis(factor, x) + _as_last_axis(bias, x)


class ConditionalBatchNorm(linen.Module):
    """Batch normalisation whose scale and bias depend on a condition.

    Statistics are those of `BatchNorm`, over all examples of the batch: those of the classes are
    not separate.

        y = scale(c) (x - mean) / sqrt(variance + epsilon) + bias(c)

    With `classes`, each class has a scale and a bias of its own: the parameters are "scale" and
    "bias", [classes, C], initially 1 and 0. Without, the condition is a vector c [B, D] of which
    both are linear functions (FiLM), with the parameters "scale" and "bias", [D, C], initially 0:

        scale(c) = 1 + c^T S,    bias(c) = c^T T

    Attributes:
      classes: number of classes, if the condition is a label: a whole number in [0, classes) for
        each example, [B]. Values are checked as those of `conditional`. None for vectors, a tree of
        arrays [B, ...] of floating numbers or booleans.
      epsilon: number added to the variance.

    References:
      Dumoulin et al., A Learned Representation for Artistic Style, 2017 (arXiv:1610.07629), who
      normalise each example by its own statistics.
      de Vries et al., Modulating Early Visual Processing by Language, 2017 (arXiv:1707.00683).
      Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, 2018
      (arXiv:1709.07871), equations 1 and 2.
    """

    classes: int | None = None
    epsilon: float = 1e-5

    @linen.compact
    def __call__(self, x: Array, c: Any) -> Array:
        """Returns x [B, ..., C], normalised, scaled and shifted by the condition."""
        channels, zeros = x.shape[-1], linen.initializers.zeros
        if self.classes is None:
            vectors = conditions.vectors(c, len(x), x.dtype)
            scale = 1 + vectors @ self.param("scale", zeros, (vectors.shape[1], channels))
            bias = vectors @ self.param("bias", zeros, (vectors.shape[1], channels))
        else:
            scales = self.param("scale", linen.initializers.ones, (self.classes, channels))
            biases = self.param("bias", zeros, (self.classes, channels))
            scale, bias = (conditions.of_class(each, c, len(x)) for each in (scales, biases))
        mean, variance = _statistics(self, x)
        factor = scale * lax.rsqrt(variance + self.epsilon)[None]
        between = (len(x), *[1] * (x.ndim - 2), channels)
        return (x - _as_last_axis(mean, x)) * factor.reshape(between) + bias.reshape(between)


def _statistics(layer: linen.Module, x: Array) -> tuple[Array, Array]:
    """Returns the mean and variance, [C] each, by which a layer normalises x.

    They are the standing statistics among the layer's parameters, else those of the batch, which
    are also written to the collection `MOMENTS` if it is mutable.
    """
    gathering = layer.is_mutable_collection(MOMENTS)
    if not gathering and layer.has_variable("params", "mean"):
        return layer.get_variable("params", "mean"), layer.get_variable("params", "variance")
    name = "/".join(layer.path) or type(layer).__name__
    devices.refuse_microbatch(
        f"batch normalisation ({name}) needs the statistics",
        "norm='group' is the same in microbatches",
    )
    mean, variance = moments(x)
    devices.uses_batch_statistics(name)
    if gathering:
        layer.put_variable(MOMENTS, "mean", mean)
        layer.put_variable(MOMENTS, "variance", variance)
    return mean, variance


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
