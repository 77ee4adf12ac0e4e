"""Networks between functions of their input and of their output."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks
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


def half_precision(net: Net) -> Net:
    """Gives a network that computes in bfloat16, with parameters and output in float32.

    On every call parameters and input are rounded to bfloat16 and the output is brought back, so
    that losses, gradients and optimizers are in float32. A product of n rounded numbers is off by
    about 2^-9 of its size. GPUs and TPUs multiply such numbers several times as fast; most CPUs
    more slowly.

    `nets.spectral` and `nets.weight_standardized` are applied to the result: they then normalise in
    float32. A network of flax modules that ask for a type of their own keeps to it. `standing`
    takes its statistics in float32.

    Args:
      net: any network.

    Returns:
      A Net with the parameters of `net`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.half_precision(nets.mlp((4,), 2))
      >>> params = net.init(rng.root(0), jnp.ones((3, 5)))
      >>> net.apply(params, jnp.ones((3, 5))).dtype, params["output"]["kernel"].dtype
      (dtype('float32'), dtype('float32'))
    """

    def cast(tree: Any, dtype: Any) -> Any:
        def leaf(x: Any) -> Any:
            floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
            return jnp.asarray(x, dtype) if floating else x

        return jax.tree.map(leaf, tree)

    @functools.wraps(net.apply)
    def apply(params: Params, x: Array, *condition: Any) -> Any:
        narrow = cast((params, x, condition), jnp.bfloat16)
        return cast(net.apply(narrow[0], narrow[1], *narrow[2]), jnp.float32)

    return net._replace(apply=apply)


class Scaled(NamedTuple):
    """Parameters of a network `with_scale`.

    Attributes:
      network: parameters of the network.
      log_scale: logarithm of the scale, [].
    """

    network: Params
    log_scale: Array


def with_scale(net: Net, *, initial: float = 1.0) -> Net:
    """Gives a network one learned scale that all examples share.

    It makes a decoder for `vae.gaussian()` or `vae.laplace()`, whose pixels then have one standard
    deviation or scale, learned with the network.

    Args:
      net: network of the locations, [B, ...].
      initial: initial scale.

    Returns:
      A Net that returns (y [B, ...], the logarithm of the scale [B, 1, ...]).

    Raises:
      ValueError: if initial is not positive.

    References:
      Dai & Wipf, Diagnosing and Enhancing VAE Models, 2019 (arXiv:1903.05789), section 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> decoder = nets.with_scale(nets.mlp((4,), (6, 6, 1)), initial=1.0)
      >>> params = decoder.init(rng.root(0), jnp.ones((3, 2)))
      >>> y, log_scale = decoder.apply(params, jnp.ones((3, 2)))
      >>> y.shape, log_scale.shape, float(params.log_scale)
      ((3, 6, 6, 1), (3, 1, 1, 1), 0.0)
    """
    checks.positive("initial", initial)
    start = math.log(initial)
    inner = net.standing

    def init(key: Key, x: Array, *condition: Any) -> Scaled:
        return Scaled(net.init(key, x, *condition), jnp.asarray(start, jnp.float32))

    @functools.wraps(net.apply)
    def apply(params: Scaled, x: Array, *condition: Any) -> tuple[Array, Array]:
        y = net.apply(params.network, x, *condition)
        return y, jnp.broadcast_to(params.log_scale, (len(y), *[1] * (y.ndim - 1)))

    def standing(params: Scaled, x: Array, *condition: Any) -> Scaled:
        assert inner is not None
        return params._replace(network=inner(params.network, x, *condition))

    pair: Any = apply
    return net._replace(init=init, apply=pair, standing=inner and standing)


def _unchanged(x: Array) -> Array:
    return x
