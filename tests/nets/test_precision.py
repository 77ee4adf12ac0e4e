"""Networks that compute in bfloat16: their types, their rounding, and a step of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import gan, nets, rng, train

X = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
Z = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
NETS = {
    "mlp": (nets.mlp((32,), 5, activation=jnp.tanh), X),
    "dcgan_discriminator": (nets.dcgan_discriminator(width=8), X),
    "dcgan_generator": (nets.dcgan_generator((8, 8, 1), width=8, norm="batch"), Z),
    "residual": (nets.residual_encoder(6, widths=(8,)), X),
    "r3gan": (nets.r3gan_discriminator(widths=(16, 16), cells=1), X),
}


@pytest.mark.costly
@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_differ_by_rounding_alone(name):
    net, x = NETS[name]
    half = nets.half_precision(net)
    params = jax.jit(net.init)(rng.root(0), x)

    def loss(net):
        def mean(params):
            y = net.apply(params, x)
            return jnp.mean(jnp.square(y)), y

        return jax.jit(jax.grad(mean, has_aux=True))

    (slope, y), (expected, exact) = loss(half)(params), loss(net)(params)
    assert y.dtype == jnp.float32
    # Five layers of products, each rounded to eight bits.
    scale = float(jnp.abs(exact).max())
    np.testing.assert_allclose(y, exact, atol=0.05 * scale)
    assert np.any(np.asarray(y) != np.asarray(exact))
    far = jax.tree.map(lambda a, b: a - b, slope, expected)
    assert optax.tree.norm(far) < 0.1 * optax.tree.norm(expected)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(slope))


def products(closed):
    """Types of all matrix products in a program."""
    found = set()
    for equation in closed.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found |= {variable.aval.dtype for variable in equation.invars}
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda v: hasattr(v, "jaxpr") or hasattr(v, "eqns"),
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= products(inner)
    return found


@pytest.mark.parametrize("name", NETS)
def test_every_product_is_of_bfloat16(name):
    net, x = NETS[name]
    params = jax.eval_shape(net.init, rng.root(0), x)
    assert products(jax.make_jaxpr(net.apply)(params, x).jaxpr) == {jnp.float32.dtype}
    half = jax.make_jaxpr(nets.half_precision(net).apply)(params, x).jaxpr
    assert products(half) == {jnp.bfloat16.dtype}


@pytest.mark.costly
def test_a_game_is_played_in_half_precision():
    judge = nets.spectral(nets.half_precision(nets.dcgan_discriminator(width=4)))
    make = nets.half_precision(nets.dcgan_generator((8, 8, 1), width=4, norm="batch"))
    model = gan.make(make, judge, latent_dim=3)
    adam = optax.adam(1e-3)
    learner = train.adversarial(
        model, gan.hinge, adam, penalty=0.5 * gan.r1, constrain=nets.power_iteration
    )
    state = jax.jit(learner.init)(rng.root(0), X)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, X)
    assert all(np.isfinite(value) for value in metrics.values())
    types = {leaf.dtype for leaf in jax.tree.leaves((after.params, after.opt_state, metrics))}
    assert types == {jnp.float32.dtype, jnp.int32.dtype}
    images = jax.jit(learner.sample, static_argnums=2)(rng.root(2), after, 3)
    assert images.dtype == jnp.float32
