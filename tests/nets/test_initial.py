"""Initial weights come from one draw, by name and place."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from scipy import stats

from genmod import nets, rng
from genmod.nets.initial import orthogonal


def weights(net, key=0, width=4):
    return jax.jit(net.init)(rng.root(key), jnp.zeros((1, width)))


def num_draws(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("random_bits[")


def test_all_weights_of_a_network_are_one_draw():
    x = jnp.zeros((1, 8, 8, 1))
    for net in (nets.mlp((5, 6, 7), 8, heads=2), nets.dcgan_discriminator(width=4)):
        assert num_draws(net.init, rng.root(0), x) == 1


def test_a_weight_is_a_function_of_key_name_and_place():
    # Stored results rest on this formula.
    kernel = np.asarray(weights(nets.mlp((300,), 2))["layer_0"]["kernel"])
    name = hashlib.sha256(b"layer_0.kernel").digest()[:4]
    key = jax.random.fold_in(rng.root(0), int.from_bytes(name, "big"))
    bound = math.sqrt(3)
    chunks = [
        jax.random.uniform(jax.random.fold_in(key, i), (1024,), minval=-bound, maxval=bound)
        for i in range(2)
    ]
    expected = math.sqrt(2 / 304) * np.concatenate(chunks)[:1200].reshape(4, 300)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6, atol=1e-7)


def test_one_more_layer_shifts_no_other_weight():
    few, many = weights(nets.mlp((6,), 2)), weights(nets.mlp((6, 6), 2))
    np.testing.assert_array_equal(few["layer_0"]["kernel"], many["layer_0"]["kernel"])
    np.testing.assert_array_equal(few["output"]["kernel"], many["output"]["kernel"])
    assert not np.array_equal(many["layer_1"]["kernel"], many["output"]["kernel"])


@pytest.mark.parametrize(
    ("initial", "shape", "distribution"),
    [
        (nets.normal(0.02), (40, 50), stats.norm(scale=0.02)),
        (nets.he_normal, (4, 4, 8, 16), stats.norm(scale=math.sqrt(2 / 128))),
        (nets.glorot_uniform, (40, 80), stats.uniform(-math.sqrt(6 / 120), math.sqrt(24 / 120))),
        (nets.glorot_uniform.in_parts(2), (40, 80), stats.uniform(-0.2738613, 0.5477226)),
    ],
)
def test_weights_have_the_distribution_that_they_are_named_after(initial, shape, distribution):
    values = initial(rng.root(3), shape)
    assert values.shape == shape
    assert stats.kstest(np.asarray(values).ravel(), distribution.cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (3, 3, 2, 6), (1, 1, 2, 9)])
def test_orthogonal_weights_have_equal_singular_values(shape):
    weights = jax.jit(lambda key: orthogonal(1.5)(key, shape))(rng.root(0))
    assert weights.shape == shape
    matrix = np.asarray(weights, np.float64).reshape(-1, shape[-1])
    singular = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(singular, 1.5, rtol=1e-5)


def test_layers_side_by_side_are_orthogonal_each():
    weights = jax.jit(lambda key: orthogonal(2.0).in_parts(3)(key, (5, 12)))(rng.root(0))
    parts = np.split(np.asarray(weights, np.float64), 3, axis=1)
    for part in parts:
        np.testing.assert_allclose(part.T @ part, 4 * np.eye(4), atol=1e-5)
    assert np.abs(parts[0].T @ parts[1]).max() > 0.1


def test_orthogonal_matrices_are_uniform():
    """All rotations and reflections of the plane are equally likely."""
    keys = rng.per_example(rng.root(0), 500)
    w = np.asarray(jax.jit(jax.vmap(lambda key: orthogonal(1.0)(key, (2, 2))))(keys))
    for column in (w[:, :, 0], w[:, :, 1], w[:, 0]):
        angle = np.arctan2(column[:, 1], column[:, 0])
        assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    assert abs(np.linalg.det(w).mean()) < 4 / math.sqrt(500)


def test_a_network_may_begin_orthogonal():
    net = nets.mlp((5,), 6, heads=2, kernel_init=orthogonal(0.5))
    assert num_draws(net.init, rng.root(0), jnp.zeros((1, 8))) == 1
    params = weights(net, width=8)
    first = np.asarray(params["layer_0"]["kernel"], np.float64)
    np.testing.assert_allclose(first.T @ first, np.eye(5) / 4, atol=1e-6)
    for head in np.split(np.asarray(params["output"]["kernel"], np.float64), 2, axis=1):
        np.testing.assert_allclose(head.T @ head, np.eye(3) / 4, atol=1e-6)


@pytest.mark.parametrize("scale", [0, -1.0, math.nan])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be a positive number"):
        orthogonal(scale)


def test_weights_of_two_layers_and_of_two_classes_have_nothing_in_common():
    two = weights(nets.mlp((30, 30), 30), width=30)
    first, second = (np.asarray(two[f"layer_{i}"]["kernel"]).ravel() for i in range(2))
    of_classes = nets.per_class(nets.mlp((30,), 2), 2)
    x, labels = jnp.zeros((1, 30)), jnp.zeros(1, jnp.int32)
    each = jax.jit(of_classes.init)(rng.root(0), x, labels)["layer_0"]["kernel"]
    for a, b in ((first, second), np.asarray(each).reshape(2, -1)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a))


def test_a_module_that_works_on_its_initial_weights_gets_real_ones():
    class Doubled(linen.Module):
        @linen.compact
        def __call__(self, x):
            initial = nets.normal(1.0)
            return x @ self.param("kernel", lambda key: 2 * initial(key, (4, 500)))

    kernel = np.asarray(weights(nets.from_linen(Doubled()))["kernel"])
    assert stats.kstest(kernel.ravel(), stats.norm(scale=2).cdf).pvalue > 1e-3


def test_layers_of_flax_may_use_them_beside_their_own():
    class Mixed(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Dense(50, kernel_init=nets.he_normal, name="ours")(x)
            return linen.Dense(50, name="theirs")(x)

    params = weights(nets.from_linen(Mixed()), width=50)
    for layer, variance in (("ours", 2 / 50), ("theirs", 1 / 50)):
        np.testing.assert_allclose(np.var(params[layer]["kernel"]), variance, rtol=0.1)


@pytest.mark.parametrize("deviation", [0, -1.0, math.inf, math.nan])
def test_a_deviation_that_is_none_is_refused(deviation):
    with pytest.raises(ValueError, match="deviation must be a positive number"):
        nets.normal(deviation)
