"""Multi-layer perceptrons."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks
from genmod.nets.convert import from_linen
from genmod.types import Array, Key, Net

Initializer = Callable[..., Array]

_GLOROT_UNIFORM = jax.nn.initializers.glorot_uniform()


def mlp(
    hidden: Sequence[int],
    out: int | Sequence[int],
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    heads: int = 1,
    output_bias: Array | None = None,
    kernel_init: Initializer = _GLOROT_UNIFORM,
) -> Net:
    """A multi-layer perceptron from [B, ...], flattened to [B, D], to [B, *out].

    Args:
      hidden: widths of the hidden layers.
      out: width of the output, or its shape without the batch axis, as (28, 28, 1).
      activation: after every hidden layer; the output layer has none.
      heads: number of equal parts of the output that are layers of their own, computed as one
        product: each is initialised with its own fan-out. An encoder's mean and log-variance are
        two heads.
      output_bias: initial bias of the output layer, of shape `out`; zeros if None.
      kernel_init: initializer of the weights; biases start at zero.

    Returns:
      A Net whose parameters are {"layer_0": {"kernel", "bias"}, ..., "output": {...}}.

    Raises:
      ValueError: if a width is not positive, `out` cannot be cut into `heads`, or `output_bias` is
        not of shape `out`.
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

    def by_head(key: Key, kernel_shape: tuple[int, int], dtype=jnp.float32) -> Array:
        rows, columns = kernel_shape
        parts = [
            kernel_init(k, (rows, columns // heads), dtype) for k in jax.random.split(key, heads)
        ]
        return jnp.concatenate(parts, axis=1)

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
                layer = linen.Dense(width, kernel_init=kernel_init, name=f"layer_{index}")
                x = activation(layer(x))
            output = linen.Dense(size, kernel_init=by_head, bias_init=initial_bias, name="output")
            return output(x).reshape(x.shape[0], *shape)

    return from_linen(Mlp())
