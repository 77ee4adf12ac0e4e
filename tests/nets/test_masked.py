"""Autoregressive networks: what each output depends on, and on what not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import rng
from genmod.nets.masked import masked_mlp

X, C = jax.random.normal(rng.root(0), (2, 5, 4))


def made(hidden, outputs, x=X, *condition):
    net = masked_mlp(hidden, outputs, activation=jnp.tanh)
    # Biases are numbers too, for a unit of no inputs has nothing else.
    random = np.random.default_rng(0)
    form = jax.eval_shape(net.init, rng.root(1), x, *condition)
    return net, jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype("f"), form)


@pytest.mark.parametrize(("hidden", "outputs"), [((), 1), ((9,), 2), ((4, 8), 3)])
def test_each_output_depends_on_the_values_before_it_and_on_all_of_them(hidden, outputs):
    net, params = made(hidden, outputs)
    jacobian = jax.jit(jax.jacobian(lambda x: net.apply(params, x[None])[0]))(X[0])
    for block in np.split(np.asarray(jacobian), outputs):
        assert np.array_equal(block != 0, np.tri(4, k=-1, dtype=bool))


def test_every_output_depends_on_the_condition_and_order_stays():
    net, params = made((8, 8), 2, X, C)
    of_one = lambda x, c: net.apply(params, x[None], c[None])[0]  # noqa: E731
    x, c = jax.jit(jax.jacobian(of_one, (0, 1)))(X[0], C[0])
    assert np.all(c != 0)
    assert np.array_equal(np.asarray(x[4:]) != 0, np.tri(4, k=-1, dtype=bool))
    assert jax.tree.map(jnp.shape, params) == {
        "layer_0": {"kernel": (4, 8), "bias": (8,)},
        "condition": {"kernel": (4, 8)},
        "layer_1": {"kernel": (8, 8), "bias": (8,)},
        "output": {"kernel": (8, 8), "bias": (8,)},
    }


def test_a_single_value_has_an_output_that_is_a_parameter():
    net, params = made((3,), 2, X[:, :1])
    found = jax.jit(net.apply)(params, X[:, :1])
    assert found.shape == (5, 2)
    np.testing.assert_array_equal(found, jnp.broadcast_to(found[:1], found.shape))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match=r"a unit at least for each of the 4 values, got .* of 3"):
        masked_mlp((8, 3), 2).init(rng.root(0), X)
    with pytest.raises(ValueError, match=r"x must be vectors \[B, L\], got \[5, 2, 2\]"):
        masked_mlp((8,), 2).init(rng.root(0), X.reshape(5, 2, 2))
    with pytest.raises(ValueError, match="hidden must be a positive whole number, got 0"):
        masked_mlp((0,), 2)
    with pytest.raises(ValueError, match="outputs must be a positive whole number, got 0"):
        masked_mlp((8,), 0)
