"""Layer normalisation against its closed form; the other normalisations are in test_nets.py."""

import jax
import jax.numpy as jnp
import numpy as np

from genmod import nets, rng


def test_layer_normalisation_is_over_the_units_of_each_example():
    net = nets.mlp((6,), 2, norm="layer", activation=jnp.tanh)
    x = 1000 + jax.random.normal(rng.root(0), (5, 4))
    params = jax.jit(net.init)(rng.root(1), x)
    assert set(params["norm_0"]) == {"scale", "bias"}
    params["norm_0"] = {"scale": jnp.arange(1.0, 7.0), "bias": jnp.linspace(-1.0, 1.0, 6)}
    h = np.asarray(x, np.float64) @ np.asarray(params["layer_0"]["kernel"], np.float64)
    mean, variance = h.mean(1, keepdims=True), h.var(1, keepdims=True)
    h = (h - mean) / np.sqrt(variance + 1e-5) * np.arange(1.0, 7.0) + np.linspace(-1, 1, 6)
    expected = np.tanh(h) @ np.asarray(params["output"]["kernel"], np.float64)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), expected, rtol=2e-3, atol=2e-3)
    assert net.standing is None
