import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from genmod import nets, rng


def test_mlp_is_the_layers_it_says():
    net = nets.mlp((5, 3), (2, 2, 1), activation=jnp.tanh)
    x = jax.random.normal(rng.root(0), (7, 2, 2, 1))
    params = net.init(rng.root(1), x)
    h = np.asarray(x, np.float64).reshape(7, 4)
    for name in ("layer_0", "layer_1"):
        h = np.tanh(h @ np.asarray(params[name]["kernel"], np.float64))
    expected = (h @ np.asarray(params["output"]["kernel"], np.float64)).reshape(7, 2, 2, 1)
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-5, atol=1e-6)
    assert not any(np.any(layer["bias"]) for layer in params.values())


def test_heads_are_initialised_as_layers_of_their_own():
    # Glorot's bound is sqrt(6 / (in + out)): one layer of 2 x 50 outputs would get a smaller one.
    net = nets.mlp((), 100, heads=2)
    kernel = np.asarray(net.init(rng.root(0), jnp.zeros((1, 30)))["output"]["kernel"])
    bound = np.sqrt(6 / (30 + 50))
    for head in np.split(kernel, 2, axis=1):
        assert 0.98 * bound < np.abs(head).max() <= bound
    assert not np.allclose(*np.split(kernel, 2, axis=1))


def test_output_bias_is_where_the_output_begins():
    bias = jnp.arange(6.0).reshape(3, 2, 1)
    net = nets.mlp((4,), (3, 2, 1), output_bias=bias)
    x = jnp.zeros((2, 5))
    y = net.apply(net.init(rng.root(0), x), x)
    np.testing.assert_array_equal(y, np.stack([bias, bias]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": (0,), "out": 2}, "hidden must be a positive whole number, got 0"),
        ({"hidden": (), "out": -1}, "out must be a positive whole number, got -1"),
        ({"hidden": (), "out": 3, "heads": 2}, "heads must divide the output's width 3, got 2"),
        (
            {"hidden": (), "out": 3, "output_bias": np.zeros(2)},
            r"output_bias must have the output's shape \(3,\), got \(2,\)",
        ),
    ],
)
def test_mlp_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        nets.mlp(**arguments)


def test_a_module_with_state_of_its_own_is_refused():
    net = nets.from_linen(linen.BatchNorm(use_running_average=False))
    with pytest.raises(ValueError, match=r"BatchNorm keeps the collections \['batch_stats'\]"):
        net.init(rng.root(0), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"BatchNorm keeps the variables \['BatchStat'\]"):
        nets.from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))


def test_nnx_modules_become_pure_functions():
    def build(rngs):
        return nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs))

    net = nets.from_nnx(build)
    x = jax.random.normal(rng.root(0), (5, 3))
    params = net.init(rng.root(1), x)
    np.testing.assert_array_equal(net.apply(params, x), build(nnx.Rngs(rng.root(1)))(x))
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert not np.any(jax.jit(net.apply)(zeros, x))
    assert np.any(net.apply(params, x)), "apply must not write into the module it was made from"
    gradient = jax.grad(lambda p: net.apply(p, x).sum())(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
