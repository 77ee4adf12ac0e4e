"""Networks whose kernels are normalised before each use, and a penalty on kernels.

A kernel is a parameter of the name "kernel" with at least two axes, as the layers of flax and of
this package have it: [in, out] of a dense layer, [height, width, in, out] of a convolution. As a
matrix W it has `out` columns and one row for each of the other axes' entries.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.nets.initial import drawn_numbers
from genmod.types import Array, Key, Net, Params

_FIRST_ITERATIONS = 30


class SpectralParams(NamedTuple):
    """Parameters of a `spectral` network.

    Attributes:
      net: parameters of the network, whose kernels are not yet normalised.
      vectors: pairs (u [rows], v [columns]) of approximate singular vectors, by the name of their
        kernel. Their gradient is zero; `power_iteration` moves them.
    """

    net: Params
    vectors: dict[str, tuple[Array, Array]]


def spectral(net: Net) -> Net:
    """Gives a network kernels of spectral norm 1.

    Each kernel's matrix W is divided by an estimate of its largest singular value:

        W / sigma,    sigma = u^T W v / (|u| |v|)

    The vectors u and v are constants in a gradient, which passes through both W of the quotient
    (equation 12 of the paper). They are among the parameters, where an optimizer leaves them as
    they are, and follow W by one power iteration after each update:

        train.adversarial(model, gan.hinge, optimizer, constrain=nets.power_iteration)

    Without it, sigma falls behind as W moves. A function as `constrain` is of the discriminator
    alone; a spectral generator needs one in a dict by player, and a player of `train.game` its own.

    Tables of the name "embedding" are normalised as well, as in the paper's code. Biases, and
    scales of a normalisation, are not. The norm is that of the matrix, which is not the norm of a
    convolution as a linear map: with a window of k x k that one is at most k times as large.

    Args:
      net: any network. `gan.packed`, `nets.wrapped` and others may be applied before or after.

    Returns:
      A Net whose parameters are `SpectralParams`. A first estimate, from 30 power iterations, is
      part of `init`. A kernel of zeros is left as it is.

    Raises:
      ValueError: on init, if the network has no kernel.

    References:
      Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
      (arXiv:1802.05957), equation 12 and algorithm 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.spectral(nets.mlp((), 3))
      >>> params = net.init(rng.root(0), jnp.zeros((1, 4)))
      >>> {name: [len(each) for each in pair] for name, pair in params.vectors.items()}
      {'output.kernel': [4, 3]}
    """

    def init(key: Key, x: Array, *condition: Any) -> SpectralParams:
        params = net.init(key, x, *condition)
        found = _kernels(params, "kernel", "embedding")
        if not found:
            _refuse_without("kernel' or 'embedding' of at least two axes", params)
        rows = {name: math.prod(kernel.shape[:-1]) for name, kernel in found.items()}
        left = drawn_numbers(rng.stream(key, "spectral"), "normal", rows)
        # The right vectors follow from the left ones, but for a kernel of zeros.
        pairs = {name: (left[name], jnp.ones(found[name].shape[-1])) for name in found}
        return _renewed(SpectralParams(params, pairs), _FIRST_ITERATIONS)

    def restored(params: SpectralParams, fixed: Params) -> SpectralParams:
        own = _leaves(params.net)
        kernels = {name: own[name] for name in params.vectors}
        return params._replace(net=_replaced(fixed, kernels))

    return _on_changed(net, init, _normalised, restored)


def power_iteration(params: Params, *, num: int = 1) -> Params:
    """Renews the singular vectors of `spectral` networks.

        v = W^T u / |W^T u|,    then u = W v / |W v|

    Args:
      params: parameters of a `spectral` network, or any tree that contains some.
      num: number of iterations.

    Returns:
      The parameters with new vectors; all else is as it was.

    Raises:
      ValueError: if `num` is not a positive whole number, or there are no `SpectralParams`.

    References:
      Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
      (arXiv:1802.05957), algorithm 1.
    """
    checks.positive_integer("num", num)
    nodes, structure = jax.tree.flatten(params, is_leaf=_is_spectral)
    if not any(map(_is_spectral, nodes)):
        raise ValueError(
            "params must contain SpectralParams, those of a nets.spectral network, got "
            f"{checks.described(params)}"
        )
    return structure.unflatten(
        [_renewed(node, num) if _is_spectral(node) else node for node in nodes]
    )


def weight_standardized(net: Net) -> Net:
    """Gives a network convolutions of standardised weights.

    In the matrix of each convolution's kernel, every column (an output channel) gets the mean 0 and
    the variance 1, over its n rows:

        (W - mean) / sqrt(variance + 1e-5)

    Gradients pass through both moments. Dense layers are left as they are. Outputs are about
    sqrt(n) times as large as inputs, so each convolution should be followed by a normalisation,
    such as `norm="group"`.

    Args:
      net: network with convolutions.

    Returns:
      A Net with the parameters of `net`.

    Raises:
      ValueError: on init, if the network has no convolution.

    References:
      Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization,
      2019 (arXiv:1903.10520).
    """

    def convolutions(params: Params) -> dict[str, Array]:
        return _kernels(params, "kernel", least_axes=3)

    def init(key: Key, x: Array, *condition: Any) -> Params:
        params = net.init(key, x, *condition)
        if not convolutions(params):
            _refuse_without("kernel' of at least three axes, that of a convolution", params)
        return params

    def changed(params: Params) -> Params:
        new = {name: _standardized(each) for name, each in convolutions(params).items()}
        return _replaced(params, new)

    def restored(params: Params, fixed: Params) -> Params:
        return _replaced(fixed, convolutions(params))

    return _on_changed(net, init, changed, restored)


def orthogonal_penalty(params: Params) -> Array:
    """Returns the squared products of different columns of all kernels.

        sum over kernels of |W^T W * (1 - I)|_F^2

    It is 0 if the columns of each kernel's matrix W are orthogonal, of whatever lengths. The
    paper's weight is 1e-4, for the generator.

    Args:
      params: parameters of any network. Those of a `spectral` one are taken before division.

    Returns:
      [], in float32 at least.

    References:
      Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019
      (arXiv:1809.11096), equation 3.
    """
    total = jnp.zeros(())
    for kernel in _kernels(params, "kernel").values():
        columns = kernel.reshape(-1, kernel.shape[-1]).astype(checks.summed_as(kernel.dtype))
        products = columns.T @ columns
        total = total + jnp.sum(jnp.square(products * (1 - jnp.eye(len(products)))))
    return total


def _on_changed(
    net: Net,
    init: Callable[..., Params],
    changed: Callable[[Any], Params],
    restored: Callable[[Any, Params], Params],
) -> Net:
    """Returns a network that is applied to changed parameters.

    Args:
      net: the network.
      init: `(key, x, *condition) -> params`.
      changed: `params -> parameters of net`, before each use.
      restored: `(params, fixed) -> params`, where `fixed` are the changed parameters with the
        statistics that `net.standing` has added.
    """
    inner = net.standing

    # The signature of the inner function says whether the network takes a condition.
    @functools.wraps(net.apply)
    def apply(params: Any, x: Array, *condition: Any) -> Array:
        return net.apply(changed(params), x, *condition)

    def standing(params: Any, x: Array, *condition: Any) -> Params:
        assert inner is not None
        return restored(params, inner(changed(params), x, *condition))

    return net._replace(init=init, apply=apply, standing=inner and standing)


def _refuse_without(what: str, params: Params) -> NoReturn:
    got = ", ".join(_leaves(params)) or "no parameters"
    raise ValueError(f"net must have a parameter '{what}, got {got}")


def _normalised(params: SpectralParams) -> Params:
    """Returns the parameters of the network, with kernels divided by their spectral norms."""

    def divided(name: str, kernel: Array) -> Array:
        u, v = map(jax.lax.stop_gradient, params.vectors[name])
        matrix = _matrix(kernel, u, v)
        lengths = jnp.sqrt(jnp.sum(jnp.square(u), -1) * jnp.sum(jnp.square(v), -1))
        sigma = jnp.sum(u * (matrix @ v[..., None])[..., 0], -1) / lengths
        # A kernel of zeros has no direction; its gradient must be finite.
        sigma = jnp.where(sigma == 0, 1, sigma)[..., None, None]
        return (matrix / sigma).reshape(kernel.shape).astype(kernel.dtype)

    own = _leaves(params.net)
    return _replaced(params.net, {name: divided(name, own[name]) for name in params.vectors})


def _renewed(params: SpectralParams, num: int) -> SpectralParams:
    kernels = _leaves(params.net)

    def once(_: Any, vectors: dict[str, tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
        new = {}
        for name, (u, v) in vectors.items():
            matrix = _matrix(kernels[name], u, v)
            v = _of_length_one((matrix.mT @ u[..., None])[..., 0], v)
            u = _of_length_one((matrix @ v[..., None])[..., 0], u)
            new[name] = (u, v)
        return new

    return params._replace(vectors=jax.lax.fori_loop(0, num, once, params.vectors))


def _matrix(kernel: Array, u: Array, v: Array) -> Array:
    """Returns a kernel as a matrix [rows, columns].

    Leading axes of u [..., rows] and v [..., columns], such as those of `per_class`, are those of
    as many matrices.
    """
    matrix = kernel.reshape(*u.shape, v.shape[-1])
    return matrix.astype(checks.summed_as(kernel.dtype))


def _of_length_one(new: Array, old: Array) -> Array:
    """Returns vectors [..., n] divided by their length; the old ones if it is 0."""
    length = jnp.sqrt(jnp.sum(jnp.square(new), -1, keepdims=True))
    scaled = new / jnp.where(length > 0, length, 1)
    return jnp.where(length > 0, scaled, old).astype(old.dtype)


def _standardized(kernel: Array) -> Array:
    wide = kernel.astype(checks.summed_as(kernel.dtype))
    axes = tuple(range(kernel.ndim - 1))
    centred = wide - wide.mean(axes, keepdims=True)
    variance = jnp.square(centred).mean(axes, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-5)).astype(kernel.dtype)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _leaves(params: Params) -> dict[str, Array]:
    """Returns all arrays by name."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _kernels(params: Params, *words: str, least_axes: int = 2) -> dict[str, Array]:
    """Returns the arrays of at least so many axes whose name ends in one of the words."""
    return {
        name: leaf
        for name, leaf in _leaves(params).items()
        if name.rpartition(".")[2] in words and leaf.ndim >= least_axes
    }


def _replaced(params: Params, new: dict[str, Array]) -> Params:
    """Returns the parameters with the arrays of `new` in place of those of the same names."""
    return jax.tree_util.tree_map_with_path(lambda path, old: new.get(_name(path), old), params)


def _is_spectral(node: Any) -> bool:
    return isinstance(node, SpectralParams)
