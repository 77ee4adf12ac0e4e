"""Flows: invertible functions of latents, with their log-determinants.

A prior or a posterior is a flow of a Gaussian: `flow_prior`, `flow_posterior`. Each maker of a flow
returns a function `latent_dim -> Flow`, as the makers of priors and posteriors do.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Key, Net, Params


class Flow(NamedTuple):
    """Invertible function of latents, as pure functions.

    The context h [B, context] of each example comes from an encoder: it holds the parameters of the
    flow, or goes to its networks. It is None for a flow without context.

    Attributes:
      init: initial parameters that all examples share, `key -> params`; `()` if there are none.
      forward: the function, `(params, z [B, L], h) -> (y [B, L], log_det [B])`, with the logarithm
        of the absolute determinant of the Jacobian dy/dz.
      inverse: its inverse, `(params, y [B, L], h) -> (z [B, L], log_det [B])`, with that of dz/dy.
      context: width of the context; 0 for none.
    """

    init: Callable[[Key], Params]
    forward: Callable[..., tuple[Array, Array]]
    inverse: Callable[..., tuple[Array, Array]]
    context: int = 0


def coupling(
    net: Callable[[int], Net], *, num_layers: int, context: int = 0, bound: float = 2.0
) -> Callable[[int], Flow]:
    """Makes a flow of affine coupling layers (RealNVP).

        y_b = z_b exp(s(z_a)) + t(z_a),    y_a = z_a

    The latents are cut into two halves a and b, which change their parts from layer to layer. The
    logarithms of the scales are s = bound * tanh(raw / bound), so that no scale can explode. Both
    directions take as long.

    Args:
      net: function that makes a network of vectors of a given width, such as
        `lambda width: nets.mlp((64,), width)`. Its input is z_a, then the context; its output are
        all raw s, then all t.
      num_layers: number of layers; all latents are changed by two.
      context: width of the context.
      bound: largest |s|.

    Raises:
      ValueError: if a number is not positive, or there are less than two latents; when called, if a
        network returns another shape.

    References:
      Dinh et al., Density estimation using Real NVP, 2017 (arXiv:1605.08803), section 3.2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> flow = vae.coupling(lambda width: nets.mlp((8,), width), num_layers=2)(3)
      >>> y, log_det = flow.forward(flow.init(rng.root(0)), jnp.ones((5, 3)))
      >>> y.shape, log_det.shape
      ((5, 3), (5,))
    """
    num_layers = checks.positive_integer("num_layers", num_layers)
    checks.positive("bound", bound)
    checks.index("context", context)

    def layer(latent_dim: int, index: int) -> Flow:
        cut = (latent_dim + 1) // 2
        turned = index % 2 == 1
        num = cut if turned else latent_dim - cut
        network = net(2 * num)

        def init(key: Key) -> Params:
            return network.init(key, jnp.zeros((1, latent_dim - num + context)))

        def halves(z: Array) -> tuple[Array, Array]:
            a, b = z[:, :cut], z[:, cut:]
            return (b, a) if turned else (a, b)

        def whole(kept: Array, changed: Array) -> Array:
            return jnp.concatenate([changed, kept] if turned else [kept, changed], axis=1)

        def affine(params: Params, kept: Array, h: Array | None) -> tuple[Array, Array]:
            given = kept if h is None else jnp.concatenate([kept, h], axis=1)
            raw, shift = _halves(network(params, given), (len(kept), num))
            return bound * jnp.tanh(raw / bound), shift

        def forward(params: Params, z: Array, h: Array | None = None) -> tuple[Array, Array]:
            kept, moved = halves(z)
            log_scale, shift = affine(params, kept, h)
            return whole(kept, moved * jnp.exp(log_scale) + shift), _sum(log_scale)

        def inverse(params: Params, y: Array, h: Array | None = None) -> tuple[Array, Array]:
            kept, moved = halves(y)
            log_scale, shift = affine(params, kept, h)
            return whole(kept, (moved - shift) * jnp.exp(-log_scale)), -_sum(log_scale)

        return Flow(init, forward, inverse, context)

    def made(latent_dim: int) -> Flow:
        if latent_dim < 2:
            raise ValueError(
                f"coupling needs two latents at least, one for each half, got {latent_dim}"
            )
        return _in_turn([layer(latent_dim, i) for i in range(num_layers)], shares=True)

    return made


def inverse_autoregressive(net: Net, *, num_layers: int, context: int = 0) -> Callable[[int], Flow]:
    """Makes an inverse autoregressive flow (IAF).

        y = sigma z + (1 - sigma) m,    sigma = sigmoid(s + 2),    (m, s) = net(z, h)

    The numbers m_i and s_i of latent i depend on the latents before it alone, so the
    log-determinant is sum log sigma. From layer to layer the order of the latents is reversed. The
    2, which the paper leaves to the initialisation, lets a new flow pass on most of z.

    Forwards each layer is one pass of its network; the inverse is exact too, but takes as many
    passes as there are latents.

    Args:
      net: autoregressive network `(params, z [B, L], h)` -> [B, 2 L], all m, then all s, such as
        `nets.masked_mlp((64,), 2)`. Without context it is called without h.
      num_layers: number of layers, each with parameters of its own.
      context: width of the context h.

    Raises:
      ValueError: if a number is out of range, or there is a context but the network takes no
        condition; when called, if the network returns another shape.

    References:
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016
      (arXiv:1606.04934), equation 14 and algorithm 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> flow = vae.inverse_autoregressive(nets.masked_mlp((8,), 2), num_layers=2, context=4)(3)
      >>> y, log_det = flow.forward(flow.init(rng.root(0)), jnp.ones((5, 3)), jnp.ones((5, 4)))
      >>> y.shape, log_det.shape
      ((5, 3), (5,))
    """
    num_layers = checks.positive_integer("num_layers", num_layers)
    checks.index("context", context)
    if context and not net.takes_condition:
        raise ValueError(
            f"context must be 0, as the network takes no condition (params, z, h), got {context}"
        )

    def layer(latent_dim: int, reverses: bool) -> Flow:
        def init(key: Key) -> Params:
            z, h = jnp.zeros((1, latent_dim)), jnp.zeros((1, context))
            return net.initial(key, z, h if context else None)

        def gates(params: Params, z: Array, h: Array | None) -> tuple[Array, Array]:
            return _halves(net(params, z, h), z.shape)

        def forward(params: Params, z: Array, h: Array | None = None) -> tuple[Array, Array]:
            z = z[:, ::-1] if reverses else z
            m, s = gates(params, z, h)
            y = jax.nn.sigmoid(s + 2) * z + jax.nn.sigmoid(-s - 2) * m
            return y, _sum(jax.nn.log_sigmoid(s + 2))

        def inverse(params: Params, y: Array, h: Array | None = None) -> tuple[Array, Array]:
            place = jnp.arange(latent_dim)

            def one_more(z: Array, i: Array) -> tuple[Array, None]:
                m, s = gates(params, z, h)
                found = (y - jax.nn.sigmoid(-s - 2) * m) / jax.nn.sigmoid(s + 2)
                # Those of later latents are not yet right, and are left at zero.
                return jnp.where((place == i)[None], found, z), None

            z, _ = jax.lax.scan(one_more, jnp.zeros_like(y), place)
            _, s = gates(params, z, h)
            return z[:, ::-1] if reverses else z, -_sum(jax.nn.log_sigmoid(s + 2))

        return Flow(init, forward, inverse, context)

    def made(latent_dim: int) -> Flow:
        return _in_turn([layer(latent_dim, i > 0) for i in range(num_layers)], shares=True)

    return made


def planar(*, num_layers: int) -> Callable[[int], Flow]:
    """Makes a planar flow, whose parameters u, w and b are the context.

        y = z + u tanh(w z + b)

    It is invertible if u w > -1, so u is changed along w until u w = m(u w) with

        m(a) = 0.9 (softplus(a + log(e - 1)) - 1).

    The paper has m(a) = softplus(a) - 1. Here m(0) = 0, so that u = 0 is the identity and a small w
    does no harm; and m stays above -0.9, as float32 cannot invert a layer that contracts more. The
    inverse has no closed form: the scalar equation of w z is solved to rounding error, and its
    gradient is that of the implicit function.

    Args:
      num_layers: number of layers; each has 2 L + 1 numbers of the context: u, w and b.

    Raises:
      ValueError: if num_layers is not positive.

    References:
      Rezende & Mohamed, Variational Inference with Normalizing Flows, 2015 (arXiv:1505.05770),
      equations 10 to 12 and appendix A.1.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import rng, vae
      >>> flow = vae.planar(num_layers=4)(3)
      >>> flow.context
      28
      >>> y, log_det = flow.forward(flow.init(rng.root(0)), jnp.ones((5, 3)), jnp.ones((5, 28)))
      >>> y.shape, log_det.shape
      ((5, 3), (5,))
    """
    num_layers = checks.positive_integer("num_layers", num_layers)

    def made(latent_dim: int) -> Flow:
        layer = Flow(lambda key: (), _planar_forward, _planar_inverse, 2 * latent_dim + 1)
        return _in_turn([layer] * num_layers, shares=False)

    return made


def composed(*flows: Callable[[int], Flow]) -> Callable[[int], Flow]:
    """Makes a flow of several, one after the other.

    Its context holds those of all flows, in their order.

    Args:
      *flows: makers `latent_dim -> Flow`, the first of which is applied first.

    Raises:
      ValueError: if there is none.

    Examples:
      >>> from genmod import nets, vae
      >>> coupling = vae.coupling(lambda width: nets.mlp((8,), width), num_layers=2)
      >>> vae.composed(coupling, vae.planar(num_layers=1))(3).context
      7
    """
    if not flows:
        raise ValueError("composed needs one flow at least, got none")
    return lambda latent_dim: _in_turn([flow(latent_dim) for flow in flows], shares=False)


def _in_turn(layers: Sequence[Flow], *, shares: bool) -> Flow:
    """Returns the flow of several layers.

    Args:
      layers: the layers, the first of which is applied first.
      shares: whether all layers get the same context; else each gets its own part.
    """
    widths = [layer.context for layer in layers]
    ends = np.cumsum(widths)
    width = widths[0] if shares else int(ends[-1])

    def contexts(z: Array, h: Array | None) -> list[Array | None]:
        if not width:
            return [None] * len(layers)
        if h is None or h.shape != (len(z), width):
            raise ValueError(
                f"h must be the flow's context, [B, {width}], got {checks.described(h)}"
            )
        if shares:
            return [h] * len(layers)
        parts = jnp.split(h, ends[:-1], axis=1)
        return [part if part.shape[1] else None for part in parts]

    def init(key: Key) -> Params:
        return tuple(layer.init(rng.at_step(key, i)) for i, layer in enumerate(layers))

    def forward(params: Params, z: Array, h: Array | None = None) -> tuple[Array, Array]:
        total = jnp.zeros(len(z), checks.summed_as(z.dtype))
        for layer, own, part in zip(layers, params, contexts(z, h), strict=True):
            z, log_det = layer.forward(own, z, part)
            total += log_det
        return z, total

    def inverse(params: Params, y: Array, h: Array | None = None) -> tuple[Array, Array]:
        total = jnp.zeros(len(y), checks.summed_as(y.dtype))
        steps = list(zip(layers, params, contexts(y, h), strict=True))
        for layer, own, part in reversed(steps):
            y, log_det = layer.inverse(own, y, part)
            total += log_det
        return y, total

    return Flow(init, forward, inverse, width)


def _halves(output: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Cuts a network's output [B, 2 n] into two of the shape [B, n]."""
    expected = (shape[0], 2 * shape[1])
    if output.shape != expected:
        raise ValueError(
            f"a network of the flow must return {list(expected)}, got {list(output.shape)}"
        )
    return output[:, : shape[1]], output[:, shape[1] :]


def _sum(each: Array) -> Array:
    return jnp.sum(each, axis=1, dtype=checks.summed_as(each.dtype))


# Planar layers

_LOG_E_1 = float(np.log(np.e - 1))
_SHARE = 0.9
"""Largest part of the latents' extent along w that a layer can take away."""


def _planar(h: Array) -> tuple[Array, Array, Array, Array]:
    """Returns the parameters of one layer.

    Args:
      h: u, w and b, [B, 2 L + 1].

    Returns:
      The changed u [B, L], w [B, L], the positive 1 + u w [B], and b [B].
    """
    h = h.astype(checks.summed_as(h.dtype))
    dim = h.shape[1] // 2
    u, w, b = h[:, :dim], h[:, dim : 2 * dim], h[:, 2 * dim]
    along, squares = _sum(u * w), _sum(w * w)
    # m(a) - a = log(exp(-a) / e + 1 - 1 / e): exact near a = 0, and without overflow.
    near = jnp.log1p(jnp.expm1(-jnp.maximum(along, -1)) / np.e)
    far = -1 - along + jnp.log1p(jnp.exp(jnp.minimum(along, -1) + _LOG_E_1))
    change = _SHARE * jnp.where(along > -1, near, far) - (1 - _SHARE) * along
    some = squares > 0
    change = jnp.where(some, change / jnp.where(some, squares, 1), 0)
    room = 1 - _SHARE + _SHARE * jax.nn.softplus(along + _LOG_E_1)
    return u + change[:, None] * w, w, room, b


def _log_slope(room: Array, bent: Array) -> Array:
    """Returns log(1 + u w (1 - tanh^2)), without cancellation, for room = 1 + u w."""
    squares = jnp.square(bent)
    return jnp.log(room * (1 - squares) + squares)


def _planar_forward(params: Params, z: Array, h: Array) -> tuple[Array, Array]:
    u, w, room, b = _planar(h)
    bent = jnp.tanh(_sum(z * w) + b)
    return z + u * bent[:, None], _log_slope(room, bent)


def _planar_inverse(params: Params, y: Array, h: Array) -> tuple[Array, Array]:
    u, w, room, b = _planar(h)
    bent = jnp.tanh(_root(_sum(y * w) + b, room))
    return y - u * bent[:, None], -_log_slope(room, bent)


@jax.custom_jvp
def _root(total: Array, room: Array) -> Array:
    """Returns the a of a + (room - 1) tanh(a) = total, for a positive room."""

    def halved(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        below = middle + (room - 1) * jnp.tanh(middle) < total
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    # As |tanh| < 1, the root is within |room - 1| of the total. Each step yields one bit of it.
    width = jnp.abs(room - 1)
    low, high = jax.lax.fori_loop(0, 30, halved, (total - width, total + width))
    return 0.5 * (low + high)


@_root.defjvp
def _root_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (_, room), (d_total, d_room) = primals, tangents
    a = _root(*primals)
    bent = jnp.tanh(a)
    squares = jnp.square(bent)
    return a, (d_total - bent * d_room) / (room * (1 - squares) + squares)
