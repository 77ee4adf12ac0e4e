"""Gated units, and an mlp of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from genmod import nets, rng
from genmod.nets.gated import gated


@pytest.mark.parametrize(
    ("options", "gate"),
    [({}, special.expit), ({"gate": jax.nn.silu}, lambda x: x * special.expit(x))],
)
def test_a_layer_is_a_linear_function_times_its_gate(options, gate):
    net = nets.mlp((3,), 2, activation=gated(**options))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    params = jax.jit(net.init)(rng.root(1), x)
    params["layer_0"]["bias"] = jnp.arange(6.0)
    hidden = x.astype(np.float64) @ np.asarray(params["layer_0"]["kernel"]) + np.arange(6.0)
    expected = (hidden[:, :3] * gate(hidden[:, 3:])) @ np.asarray(params["output"]["kernel"])
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-5, atol=1e-6)


def test_values_and_gates_are_initialised_as_layers_of_their_own():
    # Glorot's bound is sqrt(6 / (in + out)): one layer of 2 x 50 outputs would get a smaller one.
    net = nets.mlp((50,), 1, activation=gated())
    kernel = np.asarray(jax.jit(net.init)(rng.root(0), jnp.zeros((1, 30)))["layer_0"]["kernel"])
    bound = np.sqrt(6 / (30 + 50))
    for half in np.split(kernel, 2, axis=1):
        assert 0.98 * bound < np.abs(half).max() <= bound
    assert not np.allclose(*np.split(kernel, 2, axis=1))


def test_units_may_be_of_pixels():
    x = jax.random.normal(rng.root(0), (2, 3, 3, 4))
    np.testing.assert_array_equal(gated()(x), x[..., :2] * jax.nn.sigmoid(x[..., 2:]))
