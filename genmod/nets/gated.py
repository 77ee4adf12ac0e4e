"""Gated units, of which one linear function lets the other through."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genmod.types import Array


class Gated(NamedTuple):
    """Product of a linear function and a gate; see `gated`."""

    gate: Callable[[Array], Array]
    pieces: int = 2

    def __call__(self, x: Array) -> Array:
        """Returns the gated values, [..., D].

        Args:
          x: the values and the gates' inputs side by side, [..., 2 D].
        """
        values, gates = jnp.split(x, 2, axis=-1)
        return values * self.gate(gates)


def gated(*, gate: Callable[[Array], Array] = jax.nn.sigmoid) -> Gated:
    """Returns gated units, as the `activation` of an `mlp`.

        h = (W x + b) * gate(V x + c)

    A hidden layer of width D then has a dense layer of width 2 D, whose halves are each initialised
    as a layer of its own. The networks of the VampPrior's paper consist of such units.

    Args:
      gate: elementwise function; with `jax.nn.silu` the units are those called SwiGLU.

    References:
      Dauphin et al., Language Modeling with Gated Convolutional Networks, 2017 (arXiv:1612.08083),
      equation 1.
      Tomczak & Welling, VAE with a VampPrior, 2018 (arXiv:1705.07120).

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.mlp((16,), 2, activation=nets.gated())
      >>> params = net.init(rng.root(0), jnp.zeros((5, 3)))
      >>> jax.tree.map(jnp.shape, params["layer_0"])
      {'bias': (32,), 'kernel': (3, 32)}
    """
    return Gated(gate)
