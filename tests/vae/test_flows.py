"""Flows: inverses, log-determinants against autodiff's, and the gradients of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import nets, rng
from genmod.nets.masked import masked_mlp
from genmod.types import Net
from genmod.vae.flows import composed, coupling, inverse_autoregressive, planar

B, L, H = 6, 5, 3
Z = jax.random.normal(rng.root(1), (B, L))


def net(width):
    return nets.mlp((6,), width, activation=jnp.tanh)


MASKED = masked_mlp((6,), 2, activation=jnp.tanh)
MAKERS = {
    "coupling": coupling(net, num_layers=2, context=H),
    "autoregressive": inverse_autoregressive(MASKED, num_layers=2, context=H),
    "planar": planar(num_layers=3),
    "composed": composed(
        coupling(net, num_layers=2), planar(num_layers=1), coupling(net, num_layers=1, context=H)
    ),
}


def moved(flow):
    """Parameters that are not those of a new network."""
    random = np.random.default_rng(3)
    form = jax.eval_shape(flow.init, rng.root(0))
    return jax.tree.map(lambda leaf: 0.4 * random.normal(size=leaf.shape).astype("f"), form)


@pytest.mark.parametrize("name", MAKERS)
def test_a_flow_inverts_with_the_determinant_of_autodiff_and_the_gradients(name):
    flow = MAKERS[name](L)
    params = moved(flow)
    h = jax.random.normal(rng.root(2), (B, flow.context))
    weights = jax.random.normal(rng.root(4), (B, L + 1))

    def around(there, back, z):
        """Forwards and back: a sum of the differences, which are zero."""
        y, log_det = flow.forward(*there[:1], z, *there[1:])
        again, other = flow.inverse(*back[:1], y, *back[1:])
        apart = jnp.concatenate([again - z, (log_det + other)[:, None]], axis=1)
        return jnp.sum(weights * apart), (y, log_det, apart)

    @jax.jit
    def facts(params, z, h):
        one = lambda z, h: flow.forward(params, z[None], h[None])[0][0]  # noqa: E731
        own = (params, h)
        gradients, found = jax.grad(around, (0, 1, 2), has_aux=True)(own, own, z)
        return found, gradients, jax.vmap(jax.jacobian(one))(z, h)

    (y, log_det, apart), (there, back, by_z), jacobian = facts(params, Z, h)
    np.testing.assert_allclose(apart, 0, atol=1e-5)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-5)
    assert np.abs(log_det).mean() > 0.1
    assert np.abs(y - Z).min() > 0
    # It is so with all parameters, so the gradients of both ways by them are opposite.
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(there)) > 0.1
    for one, other in zip(jax.tree.leaves(there), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(one, -other, atol=5e-5)
    np.testing.assert_allclose(by_z, 0, atol=5e-5)


def test_layers_have_parameters_of_their_own():
    for name in ("coupling", "autoregressive"):
        first, second = jax.jit(MAKERS[name](4).init)(rng.root(0))[:2]
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, second)
        assert max(jax.tree.leaves(apart)) > 0.1


# Coupling


def test_two_coupling_layers_change_all_latents_and_one_a_half():
    for num_layers, kept in ((1, 3), (2, 0)):
        flow = coupling(net, num_layers=num_layers)(L)
        y, _ = jax.jit(flow.forward)(moved(flow), Z)
        assert np.array_equal((y == Z).all(0), np.arange(L) < kept)


def test_no_scale_of_a_coupling_layer_is_beyond_its_bound():
    large = Net(lambda key, x: (), lambda params, x: jnp.full((len(x), 4), 1e3))
    for bound in (0.5, 2.0):
        flow = coupling(lambda width: large, num_layers=2, bound=bound)(4)
        _, log_det = flow.forward(((), ()), Z[:, :4])
        np.testing.assert_allclose(log_det, 4 * bound, rtol=1e-6)


def test_one_latent_has_no_halves():
    with pytest.raises(ValueError, match=r"coupling needs two latents at least.*got 1"):
        coupling(net, num_layers=2)(1)


# Inverse autoregressive


def test_a_layer_is_the_gated_step_of_the_paper():
    def gates(params, z, h):
        before = jnp.cumsum(z, axis=1) - z  # of the latents before each
        return jnp.concatenate([before + h[:, :1], jnp.sin(before) + h[:, 1:]], axis=1)

    flow = inverse_autoregressive(Net(lambda key, z, h: (), gates), num_layers=2, context=2)(3)
    z, h = np.float64([[0.3, -1.0, 2.0]]), np.float64([[0.5, -0.7]])
    expected, log_det = z, 0.0
    for reverses in (False, True):
        expected = expected[:, ::-1] if reverses else expected
        before = np.cumsum(expected, axis=1) - expected
        sigma = 1 / (1 + np.exp(-(np.sin(before) + h[:, 1:] + 2)))
        expected = sigma * expected + (1 - sigma) * (before + h[:, :1])
        log_det += np.log(sigma).sum()
    found = flow.forward(((), ()), jnp.asarray(z, jnp.float32), jnp.asarray(h, jnp.float32))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], [log_det], rtol=1e-6)


def test_gates_that_are_shut_or_open_stay_finite():
    for s in (-60.0, 200.0):
        gates = Net(lambda key, z: (), lambda params, z, s=s: jnp.full((len(z), 2 * L), s))
        flow = inverse_autoregressive(gates, num_layers=1)(L)
        y, log_det = flow.forward(((),), Z)
        np.testing.assert_allclose(log_det, L * min(s + 2, 0), atol=1e-6)
        assert np.isfinite(flow.inverse(((),), y)[0]).all()


# Planar


def test_u_is_changed_until_a_planar_layer_is_invertible():
    """Along w, which is an axis here, to m(u w); across it u stays as it is."""
    flow = planar(num_layers=1)(2)
    along = np.array([-30.0, -5.0, -1.0, 0.0, 1e-4, 3.0, 20.0])
    rest = np.broadcast_to([0.7, 1.0, 0.0, 0.25], (7, 4))
    h = np.column_stack([along, rest]).astype(np.float32)
    expected = 0.9 * (np.logaddexp(0, along + np.log(np.e - 1)) - 1)
    assert abs(expected[0] + 0.9) < 1e-12
    assert abs(expected[3]) < 1e-12
    z = np.broadcast_to(np.float32([0.5, -2.0]), (7, 2))
    y, _ = jax.jit(flow.forward)(((),), z, h)
    change = np.column_stack([expected, np.full(7, 0.7)]) * np.tanh(0.75)
    np.testing.assert_allclose(y - z, change, rtol=2e-6, atol=3e-6)
    np.testing.assert_allclose(jax.jit(flow.inverse)(((),), y, h)[0], z, atol=1e-5)


def test_a_planar_layer_without_direction_or_step_does_nothing():
    flow = planar(num_layers=1)(L)

    @jax.jit
    def facts(h):
        def total(h):
            y, log_det = flow.forward(((),), Z, h)
            return y.sum() + log_det.sum(), (y, log_det)

        return jax.grad(total, has_aux=True)(h)

    h = np.zeros((B, 2 * L + 1), np.float32)
    h[B // 2 :, L : 2 * L] = 1e-3
    gradient, (y, log_det) = facts(h)
    np.testing.assert_array_equal(y, Z)
    np.testing.assert_allclose(log_det, 0, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_hard_planar_layers_invert_too():
    """Large parameters, with which a layer contracts tenfold or stretches a hundredfold."""
    flow = planar(num_layers=2)(2)
    num = 500
    z = jax.random.normal(rng.root(5), (num, 2))
    h = 3 * jax.random.normal(rng.root(6), (num, flow.context))
    y, log_det = jax.jit(flow.forward)(((), ()), z, h)
    back, other = jax.jit(flow.inverse)(((), ()), y, h)
    assert np.quantile(np.abs(back - z), 0.99) < 2e-5
    assert np.quantile(np.abs(log_det + other), 0.99) < 1e-4
    assert np.min(log_det) < -2
    assert np.max(log_det) > 2


# Composed


def test_composed_flows_follow_each_other_with_their_parts_of_the_context():
    parts = [planar(num_layers=1)(L), MAKERS["coupling"](L)]
    flow = composed(planar(num_layers=1), MAKERS["coupling"])(L)
    params = moved(flow)
    assert flow.context == 2 * L + 1 + H
    h = jax.random.normal(rng.root(2), (B, flow.context))

    @jax.jit
    def facts(params, h):
        first, one = parts[0].forward(params[0], Z, h[:, : 2 * L + 1])
        second, two = parts[1].forward(params[1], first, h[:, 2 * L + 1 :])
        return second, one, two, *flow.forward(params, Z, h)

    second, one, two, y, log_det = facts(params, h)
    np.testing.assert_allclose(y, second, rtol=1e-6)
    np.testing.assert_allclose(log_det, one + two, rtol=1e-6)


# Bad input


def test_a_context_must_be_the_flows():
    flow = MAKERS["coupling"](L)
    params = moved(flow)
    for h, got in ((None, "None"), (Z, rf"\[{B}, {L}\]")):
        with pytest.raises(ValueError, match=rf"h must be the flow's context, \[B, {H}\].*{got}"):
            flow.forward(params, Z, h)
        with pytest.raises(ValueError, match="h must be the flow's context"):
            flow.inverse(params, Z, h)


def test_numbers_out_of_range_are_refused():
    for make in (
        lambda **options: coupling(net, **options),
        lambda **options: inverse_autoregressive(MASKED, **options),
        planar,
    ):
        with pytest.raises(ValueError, match="num_layers must be a positive whole number, got 0"):
            make(num_layers=0)
    with pytest.raises(ValueError, match="bound must be a positive number, got 0"):
        coupling(net, num_layers=1, bound=0)
    with pytest.raises(ValueError, match="context must be a whole number of at least 0, got -1"):
        coupling(net, num_layers=1, context=-1)
    with pytest.raises(ValueError, match=r"context must be a whole number of at least 0, got 0\.5"):
        inverse_autoregressive(MASKED, num_layers=1, context=0.5)
    with pytest.raises(ValueError, match=r"context must be 0.*takes no condition.*got 3"):
        inverse_autoregressive(net(2 * L), num_layers=1, context=3)
    with pytest.raises(ValueError, match="composed needs one flow at least"):
        composed()


def test_a_network_of_another_width_is_refused():
    flow = coupling(lambda width: net(3), num_layers=1)(L)
    with pytest.raises(ValueError, match=rf"must return \[{B}, 4\], got \[{B}, 3\]"):
        jax.eval_shape(flow.forward, moved(flow), Z)
