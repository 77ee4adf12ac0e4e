"""Networks between functions of their input and of their output."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from genmod.types import Array, Key, Net, Params


def wrapped(
    net: Net,
    *,
    before: Callable[[Array], Array] | None = None,
    after: Callable[[Array], Array] | None = None,
) -> Net:
    """Wraps a network in functions of its input and output.

        y = after(net(before(x)))

    A `Net` made by hand from another's functions loses its `standing`, so that a network with batch
    normalisation would sample by the statistics of the batch. The result of this function keeps it,
    and takes a condition if `net` does.

    Args:
      net: any network.
      before: function of the input, x [B, ...] -> [B, ...]; None leaves it as it is.
      after: function of the output, y [B, ...] -> [B, ...]; None leaves it as it is.

    Returns:
      A Net with the parameters of `net`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.mlp((4,), 2, norm="batch")
      >>> halved = nets.wrapped(net, before=lambda x: x / 2, after=jnp.tanh)
      >>> params = halved.init(rng.root(0), jnp.ones((3, 5)))
      >>> halved.apply(params, jnp.ones((3, 5))).shape, halved.standing is None
      ((3, 2), False)
    """
    entering = before or _unchanged
    leaving = after or _unchanged
    inner = net.standing

    def init(key: Key, x: Array, *condition: Any) -> Params:
        return net.init(key, entering(x), *condition)

    # The signature of the inner function says whether the network takes a condition.
    @functools.wraps(net.apply)
    def apply(params: Params, x: Array, *condition: Any) -> Array:
        return leaving(net.apply(params, entering(x), *condition))

    def standing(params: Params, x: Array, *condition: Any) -> Params:
        assert inner is not None
        return inner(params, jax.vmap(entering)(x), *condition)

    return net._replace(init=init, apply=apply, standing=inner and standing)


def _unchanged(x: Array) -> Array:
    return x
