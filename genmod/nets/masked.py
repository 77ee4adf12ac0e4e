"""Autoregressive networks, whose weights are masked."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from genmod import checks
from genmod.nets.convert import from_linen
from genmod.nets.initial import glorot_uniform
from genmod.nets.mlp import WeightInit
from genmod.types import Array, Net


def masked_mlp(
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    kernel_init: WeightInit = glorot_uniform,
) -> Net:
    """Makes an autoregressive multi-layer perceptron (MADE).

    It maps x [B, L] to [B, outputs * L]: `outputs` blocks of one number for each of the L values,
    which depends on the values before it alone. Units of a hidden layer have degrees from 0 to
    L - 1, the number of values that they see; a weight between units that must not be connected
    counts as zero.

    A condition c [B, D], if one is given, is an unmasked input of the first layer: all outputs
    depend on it.

    Args:
      hidden: widths of the hidden layers, at least L each, so that no degree is missing.
      outputs: numbers for each value, such as 2 for a mean and a scale.
      activation: elementwise function after every hidden layer.
      kernel_init: initializer of the weights; biases start at zero.

    Returns:
      A Net whose functions have the condition as an optional last argument. Its parameters are
      {"layer_0": {"kernel", "bias"}, ..., "output": {...}}, and with a condition {"condition":
      {"kernel"}}.

    Raises:
      ValueError: if a width is not positive; on init, if x is not [B, L], or a hidden layer is
        narrower than L.

    References:
      Germain et al., MADE: Masked Autoencoder for Distribution Estimation, 2015 (arXiv:1502.03509),
      equations 12 and 13.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.masked_mlp((16,), 2)
      >>> x, c = jnp.zeros((5, 3)), jnp.zeros((5, 4))
      >>> net.apply(net.init(rng.root(0), x, c), x, c).shape
      (5, 6)
    """
    widths = tuple(checks.positive_integer("hidden", width) for width in hidden)
    outputs = checks.positive_integer("outputs", outputs)

    class Masked(linen.Module):
        before: tuple[int, ...]
        after: tuple[int, ...]

        @linen.compact
        def __call__(self, x: Array) -> Array:
            mask = np.greater_equal.outer(self.after, self.before).T
            kernel = self.param("kernel", kernel_init, mask.shape)
            bias = self.param("bias", jax.nn.initializers.zeros, mask.shape[1:])
            y = x @ jnp.where(mask, kernel, 0)
            return y + jnp.broadcast_to(bias, y.shape)

    class MaskedMlp(linen.Module):
        @linen.compact
        def __call__(self, x: Array, c: Array | None = None) -> Array:
            for index, degrees in enumerate(_degrees(x.shape, widths, outputs)):
                last = index == len(widths)
                y = Masked(*degrees, name="output" if last else f"layer_{index}")(x)
                if index == 0 and c is not None:
                    width = y.shape[1]
                    y += linen.Dense(
                        width, use_bias=False, kernel_init=kernel_init, name="condition"
                    )(c)
                x = y if last else activation(y)
            return x

    return from_linen(MaskedMlp())


def _degrees(
    shape: tuple[int, ...], widths: Sequence[int], outputs: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns the degrees of the units before and after each layer.

    A weight counts if the unit after it has no lower degree than the one before it.
    """
    if len(shape) != 2:
        raise ValueError(f"x must be vectors [B, L], got {list(shape)}")
    size = shape[1]
    if min(widths, default=size) < size:
        raise ValueError(
            f"hidden must have a unit at least for each of the {size} values, got a layer of "
            f"{min(widths)}"
        )
    # The number of values that a unit may see: an input shows its own value.
    inputs = tuple(range(1, size + 1))
    degrees = [inputs, *(tuple(unit % size for unit in range(width)) for width in widths)]
    return list(itertools.pairwise([*degrees, tuple(range(size)) * outputs]))
