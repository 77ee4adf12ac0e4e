"""Multi-layer perceptrons."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets import normalization
from genmod.nets.convert import from_linen
from genmod.nets.initial import Initializer, glorot_uniform
from genmod.types import Array, Key, Net

WeightInit = Callable[..., Array]
"""`(key, shape, dtype) -> weights`: a `nets.Initializer`, or one of `jax.nn.initializers`."""


class Maxout(NamedTuple):
    """The largest of `pieces` linear functions: [B, pieces * D] to [B, D]. See `maxout`."""

    pieces: int

    def __call__(self, x: Array) -> Array:
        """Returns the elementwise maximum of the parts of x [B, pieces * D], [B, D]."""
        return functools.reduce(jnp.maximum, jnp.split(x, self.pieces, axis=-1))


def maxout(pieces: int) -> Maxout:
    """Maxout units (Goodfellow et al. 2013, arXiv:1302.4389), as the `activation` of an `mlp`.

    A hidden layer of width D then has a Dense of `pieces` times D, whose pieces are initialised as
    layers of their own, and hands on the largest of every unit's pieces. PacGAN's discriminators
    (Lin et al. 2018, arXiv:1712.04086) are made of these.

    Raises:
      ValueError: if `pieces` is not a positive whole number.
    """
    return Maxout(checks.positive_integer("pieces", pieces))


def mlp(
    hidden: Sequence[int],
    out: int | Sequence[int],
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    norm: str | None = None,
    groups: int | None = None,
    heads: int = 1,
    output: Callable[[Array], Array] | None = None,
    output_bias: Array | None = None,
    kernel_init: WeightInit = glorot_uniform,
) -> Net:
    """A multi-layer perceptron from [B, ...], flattened to [B, D], to [B, *out].

    Args:
      hidden: widths of the hidden layers.
      out: width of the output, or its shape without the batch axis, as (28, 28, 1).
      activation: after every hidden layer. May be `maxout(pieces)`.
      norm: "batch" or "group" normalisation of hidden layers before their activation; see
        `BatchNorm`.
      groups: of the group normalisation; at most 32, of 8 values or more, if None.
      heads: number of equal parts of the output that are layers of their own, computed as one
        product: each is initialised with its own fan-out. An encoder's mean and log-variance are
        two heads.
      output: elementwise function of the output layer; none leaves it linear.
      output_bias: initial bias of the output layer, of shape `out`; zeros if None.
      kernel_init: initializer of the weights; biases start at zero.

    Returns:
      A Net whose parameters are {"layer_0": {"kernel", "bias"}, ..., "output": {...}}, and with a
      normalisation {"norm_0": {"scale", "bias"}, ...}. It has `standing` with batch normalisation.

    Raises:
      ValueError: if a width is not positive, `out` cannot be cut into `heads`, `output_bias` is not
        of shape `out`, `norm` is unknown, or `groups` do not divide a layer.
    """
    widths = tuple(checks.positive_integer("hidden", width) for width in hidden)
    shape = tuple(
        checks.positive_integer("out", size)
        for size in (out if isinstance(out, Sequence) else (out,))
    )
    size = math.prod(shape)
    if size % checks.positive_integer("heads", heads):
        raise ValueError(f"heads must divide the output's width {size}, got {heads}")
    if output_bias is not None and jnp.shape(output_bias) != shape:
        raise ValueError(
            f"output_bias must have the output's shape {shape}, got {jnp.shape(output_bias)}"
        )

    pieces = activation.pieces if isinstance(activation, Maxout) else 1
    normalization.check(norm, groups, tuple(pieces * width for width in widths))

    def initial_bias(key: Key, bias_shape: tuple[int], dtype=jnp.float32) -> Array:
        del key
        if output_bias is None:
            return jnp.zeros(bias_shape, dtype)
        return jnp.asarray(output_bias, dtype).reshape(bias_shape)

    class Mlp(linen.Module):
        @linen.compact
        def __call__(self, x: Array) -> Array:
            x = x.reshape(x.shape[0], -1)
            for index, width in enumerate(widths):
                initial = kernel_init if pieces == 1 else _in_parts(kernel_init, pieces)
                x = linen.Dense(pieces * width, kernel_init=initial, name=f"layer_{index}")(x)
                layer = normalization.normalizer(
                    norm, x.shape[-1], groups=groups, name=f"norm_{index}"
                )
                x = activation(x if layer is None else layer(x))
            last = linen.Dense(
                size,
                kernel_init=_in_parts(kernel_init, heads),
                bias_init=initial_bias,
                name="output",
            )
            y = last(x) if output is None else output(last(x))
            return y.reshape(x.shape[0], *shape)

    return from_linen(Mlp(), standing=norm == "batch" and bool(widths))


def _in_parts(kernel_init: WeightInit, parts: int) -> WeightInit:
    """Initialises equal parts of the columns one by one, each with its own fan-out."""
    if isinstance(kernel_init, Initializer):
        return kernel_init.in_parts(parts)

    def init(key: Key, shape: tuple[int, int], dtype=jnp.float32) -> Array:
        rows, columns = shape
        kernels = [
            kernel_init(k, (rows, columns // parts), dtype) for k in jax.random.split(key, parts)
        ]
        return jnp.concatenate(kernels, axis=1)

    return init
