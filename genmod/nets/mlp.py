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
from genmod.nets.gated import Gated
from genmod.nets.initial import Initializer, glorot_uniform
from genmod.types import Array, Key, Net

WeightInit = Callable[..., Array]
"""Initializer `(key, shape, dtype) -> weights`.

It is a `nets.Initializer`, or one of `jax.nn.initializers`.
"""


class Maxout(NamedTuple):
    """Elementwise maximum of `pieces` linear functions; see `maxout`."""

    pieces: int

    def __call__(self, x: Array) -> Array:
        """Returns the maximum over the pieces, [B, D].

        Args:
          x: the pieces side by side, [B, pieces * D].
        """
        return functools.reduce(jnp.maximum, jnp.split(x, self.pieces, axis=-1))


def maxout(pieces: int) -> Maxout:
    """Returns maxout units, as the `activation` of an `mlp`.

    A hidden layer of width D then has a dense layer of width `pieces` * D, and outputs the largest
    of every unit's pieces. Each piece is initialised as its own layer. PacGAN's discriminators
    consist of maxout units.

    Args:
      pieces: number of linear functions per unit.

    Raises:
      ValueError: if `pieces` is not a positive whole number.

    References:
      Goodfellow et al., Maxout Networks, 2013 (arXiv:1302.4389).
      Lin et al., PacGAN: The Power of Two Samples in Generative Adversarial Networks, 2018
      (arXiv:1712.04086).
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
    """Makes a multi-layer perceptron (MLP).

    It maps x [B, ...], flattened to [B, D], to [B, *out].

    Args:
      hidden: widths of the hidden layers.
      out: width of the output, or its shape without the batch axis, such as (28, 28, 1).
      activation: elementwise function after every hidden layer, `maxout(pieces)` or `gated()`.
      norm: "batch", "group" or "layer" normalisation of hidden layers before their activation; see
        `BatchNorm`. None for no normalisation.
      groups: number of groups of the group normalisation. If None, the most, up to 32, that have at
        least 8 values each.
      heads: number of equal parts of the output that count as separate layers: each is initialised
        with its own fan-out, and all are computed as one product. An encoder's mean and
        log-variance are two heads.
      output: elementwise function of the output layer; None leaves it linear.
      output_bias: initial bias of the output layer, of shape `out`; zeros if None.
      kernel_init: initializer of the weights; biases start at zero.

    Returns:
      A Net whose parameters are {"layer_0": {"kernel", "bias"}, ..., "output": {...}}, and with a
      normalisation {"norm_0": {"scale", "bias"}, ...}. It has `standing` with batch normalisation.

    Raises:
      ValueError: if a width is not positive, `heads` does not divide the output's width,
        `output_bias` is not of shape `out`, `norm` is unknown, or `groups` does not divide a layer.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.mlp((16,), (28, 28, 1))
      >>> params = net.init(rng.root(0), jnp.zeros((5, 3)))
      >>> net.apply(params, jnp.zeros((5, 3))).shape
      (5, 28, 28, 1)
      >>> jax.tree.map(jnp.shape, params["layer_0"])
      {'bias': (16,), 'kernel': (3, 16)}
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

    pieces = activation.pieces if isinstance(activation, Maxout | Gated) else 1
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
                initial = kernel_init if pieces == 1 else in_parts(kernel_init, pieces)
                x = linen.Dense(pieces * width, kernel_init=initial, name=f"layer_{index}")(x)
                layer = normalization.normalizer(
                    norm, x.shape[-1], groups=groups, name=f"norm_{index}"
                )
                x = activation(x if layer is None else layer(x))
            last = linen.Dense(
                size,
                kernel_init=in_parts(kernel_init, heads),
                bias_init=initial_bias,
                name="output",
            )
            y = last(x) if output is None else output(last(x))
            return y.reshape(x.shape[0], *shape)

    return from_linen(Mlp(), standing=norm == "batch" and bool(widths))


def mlp_chain(
    shape: Sequence[int],
    *,
    latent_dims: Sequence[int],
    hidden: Sequence[Sequence[int]],
    activation: Callable[[Array], Array] = jnp.tanh,
    output_bias: Array | None = None,
) -> tuple[list[Net], list[Net]]:
    """Makes the encoders and decoders of a chain of latent layers.

    They are the first two arguments of `vae.chain`. Each is an `mlp`; a decoder mirrors the encoder
    of its layer. Those that return the moments of latents have two heads.

    Args:
      shape: shape of an image, (H, W, C).
      latent_dims: numbers of latents of the K layers, from the data upwards.
      hidden: widths of the hidden layers of the K encoders, such as ((200, 200), (100, 100)).
      activation: elementwise function after every hidden layer, as for `mlp`.
      output_bias: initial bias of the images, of shape `shape`; zeros if None.

    Returns:
      K encoders, and K decoders.

    Raises:
      ValueError: if there are not as many latent_dims as hidden, or a width is not positive.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), section 5.

    Examples:
      >>> from genmod import nets, vae
      >>> dims = (100, 50)
      >>> encoders, decoders = nets.mlp_chain(
      ...     (28, 28, 1), latent_dims=dims, hidden=((200, 200), (100, 100))
      ... )
      >>> model = vae.chain(encoders, decoders, latent_dims=dims)
    """
    dims, widths = tuple(latent_dims), [tuple(own) for own in hidden]
    if not dims or len(dims) != len(widths):
        raise ValueError(
            "hidden must be the widths of each of the latent_dims, at least one, got "
            f"{len(widths)} for {len(dims)} latent_dims"
        )
    for dim in dims:
        checks.positive_integer("latent_dims", dim)
    make = functools.partial(mlp, activation=activation)
    encoders = [make(own, 2 * dim, heads=2) for own, dim in zip(widths, dims, strict=True)]
    first = make(widths[0][::-1], tuple(shape), output_bias=output_bias)
    upper = [
        make(own[::-1], 2 * dim, heads=2) for own, dim in zip(widths[1:], dims[:-1], strict=True)
    ]
    return encoders, [first, *upper]


def in_parts(kernel_init: WeightInit, parts: int) -> WeightInit:
    """Returns an initializer for layers side by side.

    Equal parts of the columns are layers, each with its own fan-out.
    """
    if isinstance(kernel_init, Initializer):
        return kernel_init.in_parts(parts)

    def init(key: Key, shape: tuple[int, int], dtype=jnp.float32) -> Array:
        rows, columns = shape
        kernels = [
            kernel_init(k, (rows, columns // parts), dtype) for k in jax.random.split(key, parts)
        ]
        return jnp.concatenate(kernels, axis=1)

    return init
