"""Normalised kernels against NumPy's singular values and float64 formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from genmod import gan, nets, rng, train
from genmod.nets.spectral import (
    SpectralParams,
    orthogonal_penalty,
    power_iteration,
    spectral,
    weight_standardized,
)

X = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
LABELS = np.array([2, 0, 1, 2], np.int32)


def top(kernel):
    """The largest singular value of a kernel's matrix."""
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return np.linalg.svd(matrix, compute_uv=False)[0]


def made(net, *inputs, key=0):
    return jax.jit(net.init)(rng.root(key), *inputs)


def kernels(params):
    return {name: layer["kernel"] for name, layer in params.items()}


def divided(params, norms):
    return {
        name: {**layer, "kernel": layer["kernel"] / norms[name]} for name, layer in params.items()
    }


def test_kernels_are_divided_by_their_largest_singular_value():
    inner = nets.dcgan_discriminator(width=4)
    net = spectral(inner)
    params = made(net, X)
    np.testing.assert_array_equal(
        *(jax.tree.leaves(kernels(p)["output"])[0] for p in (params.net, made(inner, X)))
    )
    # Biases must count, and the vectors must be found anew for other kernels.
    random = np.random.default_rng(1)
    own = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), params.net)
    params = jax.jit(lambda p: power_iteration(p, num=500))(params._replace(net=own))
    norms = {name: top(kernel) for name, kernel in kernels(own).items()}
    assert min(norms.values()) > 1.5
    expected = jax.jit(inner.apply)(divided(own, norms), X)
    np.testing.assert_allclose(jax.jit(net.apply)(params, X), expected, rtol=1e-4, atol=1e-5)
    for name, (u, v) in params.vectors.items():
        kernel = np.asarray(own[name.partition(".")[0]]["kernel"], np.float64)
        assert u.shape == (kernel.size // kernel.shape[-1],)
        assert v.shape == kernel.shape[-1:]
        lengths = np.linalg.norm(u), np.linalg.norm(v)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_the_first_estimate_is_close():
    inner = nets.mlp((64, 64), 1)
    params = made(spectral(inner), X)
    found = kernels(jax.jit(spectral(Identity).apply)(params, X))
    norms = [top(kernel) for kernel in found.values()]
    assert max(norms) < 1.05
    assert min(norms) > 1 - 1e-5  # an estimate is never above


Identity = nets.Net(lambda key, x: (), lambda params, x: params)
"""Network that returns its parameters: those that a network gets."""


def test_gradients_pass_through_the_norm_but_not_through_the_vectors():
    random = np.random.default_rng(2)
    x, weights, kernel = (random.normal(size=shape) for shape in ((5, 4), (5, 3), (4, 3)))
    u, _, vt = np.linalg.svd(kernel)
    sigma, u, v = top(kernel), u[:, 0], vt[0]

    def loss(kernel):
        return np.sum(weights * (x @ kernel) / top(kernel))

    with jax.enable_x64(True):
        net = spectral(nets.mlp((), 3))
        params = SpectralParams(
            {"output": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}},
            {"output.kernel": (jnp.asarray(u), jnp.asarray(v))},
        )
        value, gradient = jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(weights * net.apply(p, jnp.asarray(x))))
        )(params)
    np.testing.assert_allclose(value, loss(kernel), rtol=1e-12)
    # Equation 12 of the paper.
    plain = x.T @ weights
    expected = (plain - np.sum(plain * kernel / sigma) * np.outer(u, v)) / sigma
    found = gradient.net["output"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    for index in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[index] = 1e-5
        slope = (loss(kernel + step) - loss(kernel - step)) / 2e-5
        np.testing.assert_allclose(found[index], slope, rtol=1e-6, atol=1e-8)
    assert not any(map(np.any, jax.tree.leaves(gradient.vectors)))


def test_a_network_of_leaky_rectifiers_is_lipschitz():
    leaky = lambda x: jax.nn.leaky_relu(x, 0.2)  # noqa: E731
    net = spectral(nets.mlp((16, 16), 8, activation=leaky))
    params = made(net, X)
    large = jax.tree.map(lambda leaf: 30 * leaf, params.net)
    params = jax.jit(lambda p: power_iteration(p, num=300))(params._replace(net=large))
    random = np.random.default_rng(3)
    x = random.normal(size=(500, 64)).astype(np.float32)
    near = x + 0.1 * random.normal(size=x.shape).astype(np.float32)
    y, other = (jax.jit(net.apply)(params, a) for a in (x, near))
    ratio = np.linalg.norm(y - other, axis=1) / np.linalg.norm(x - near, axis=1)
    assert 0.1 < ratio.max() <= 1


def test_training_moves_vectors_by_power_iteration_alone():
    judge = spectral(nets.mlp((6,), 1))
    model = gan.make(nets.mlp((6,), (8, 8, 1)), judge, latent_dim=2)

    learner = train.adversarial(
        model, gan.hinge, optax.adam(0.01, b1=0.5), penalty=gan.r1, constrain=power_iteration
    )
    state, step = jax.jit(learner.init)(rng.root(0), X), jax.jit(learner.step)
    for index in range(2):
        begin = state.params.discriminator
        state, metrics = step(rng.root(index), state, X)
        found = state.params.discriminator
        assert np.isfinite(metrics["r1"])
        assert np.abs(found.net["layer_0"]["kernel"] - begin.net["layer_0"]["kernel"]).max() > 0.005
        expected = jax.jit(power_iteration)(found._replace(vectors=begin.vectors))
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_iteration_multiplies_by_the_matrix_and_its_transpose():
    kernel = np.random.default_rng(4).normal(size=(2, 2, 2, 3))
    matrix, u = kernel.reshape(8, 3), np.ones(8)
    for _ in range(3):
        v = matrix.T @ u / np.linalg.norm(matrix.T @ u)
        u = matrix @ v / np.linalg.norm(matrix @ v)
    arrays = [jnp.asarray(a, jnp.float32) for a in (kernel, np.ones(8), np.zeros(3))]
    params = SpectralParams({"kernel": arrays[0]}, {"kernel": (arrays[1], arrays[2])})
    found = jax.jit(lambda p: power_iteration(p, num=3))({"a": [params, jnp.ones(2)]})["a"]
    for one, other in zip(found[0].vectors["kernel"], (u, v), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_array_equal(found[0].net["kernel"], arrays[0])
    np.testing.assert_array_equal(found[1], jnp.ones(2))
    # Neither weight decay nor an average of vectors changes what a kernel is divided by.
    divide = jax.jit(spectral(Identity).apply)
    short = found[0]._replace(vectors=jax.tree.map(lambda a: 0.3 * a, found[0].vectors))
    np.testing.assert_allclose(divide(short, X)["kernel"], divide(found[0], X)["kernel"], rtol=1e-5)


def test_a_kernel_of_zeros_waits_until_it_has_moved():
    net = spectral(nets.mlp((), 2, kernel_init=jax.nn.initializers.zeros))
    x = X[:, :2, 0, 0]
    params = made(net, x)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: net.apply(p, x).sum()))(params)
    expected = np.broadcast_to(x.sum(0)[:, None], (2, 2))
    assert value == 0
    np.testing.assert_allclose(gradient.net["output"]["kernel"], expected, rtol=1e-5)
    assert all(np.isfinite(each).all() for each in params.vectors["output.kernel"])
    params = params._replace(net=jax.tree.map(lambda a: a + 1e-3, params.net))
    params = jax.jit(power_iteration)(params)
    found = np.abs(params.vectors["output.kernel"][1])
    np.testing.assert_allclose(found, np.sqrt(0.5), rtol=1e-5)


def test_embeddings_are_normalised_and_all_else_is_left_alone():
    class Module(linen.Module):
        @linen.compact
        def __call__(self, x, c):
            x = nets.BatchNorm(name="norm")(linen.Dense(3, name="dense")(x))
            return x + linen.Embed(3, 3, name="table")(c)

    inner = nets.from_linen(Module(), standing=True)._replace(standing_size=2)
    net, x = spectral(inner), X[:, 0, :, 0]
    assert net.needs_condition
    assert net.standing_size == 2
    params = made(net, x, LABELS)
    assert set(params.vectors) == {"dense.kernel", "table.embedding"}
    params = params._replace(net=jax.tree.map(lambda a: a + 2, params.net))
    given = jax.jit(spectral(Identity).apply)(params, x)
    np.testing.assert_array_equal(given["norm"]["scale"], params.net["norm"]["scale"])
    np.testing.assert_array_equal(given["dense"]["bias"], params.net["dense"]["bias"])
    assert top(given["table"]["embedding"]) < 0.7 * top(params.net["table"]["embedding"])
    # Standing statistics are those of the normalised network; the kernels stay as they were.
    fixed = jax.jit(net.standing)(params, x[None], LABELS[None])
    assert set(fixed.net["norm"]) == {"scale", "bias", "mean", "variance"}
    np.testing.assert_array_equal(fixed.net["dense"]["kernel"], params.net["dense"]["kernel"])
    y = jax.jit(net.apply)(params, x, LABELS)
    np.testing.assert_allclose(jax.jit(net.apply)(fixed, x, LABELS), y, rtol=1e-4, atol=1e-5)
    assert spectral(nets.mlp((), 1)).standing is None


def test_networks_of_classes_have_a_norm_each():
    net = nets.per_class(spectral(nets.mlp((), 2)), 3)
    x = X[:, 0, :, 0]
    params = made(net, x, LABELS)
    params = params._replace(
        net=jax.tree.map(
            lambda a: a * jnp.arange(1.0, 4).reshape(-1, *[1] * (a.ndim - 1)), params.net
        )
    )
    params = jax.jit(lambda p: power_iteration(p, num=200))(params)
    y = jax.jit(net.apply)(params, x, LABELS)
    for i, label in enumerate(LABELS):
        kernel = np.asarray(params.net["output"]["kernel"])[label]
        np.testing.assert_allclose(y[i], x[i] @ kernel / top(kernel), rtol=1e-4, atol=1e-5)


def test_half_precision_stays_half_precision():
    net = spectral(nets.mlp((3,), 2))
    half = functools.partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16))
    params = half(jax.eval_shape(net.init, rng.root(0), X))
    assert jax.eval_shape(net.apply, params, half(X)).dtype == jnp.bfloat16
    assert jax.eval_shape(power_iteration, params) == params


# Weight standardisation


def test_standardised_weights_have_mean_zero_and_variance_one_in_each_channel():
    inner = nets.dcgan_discriminator(width=4)
    net = weight_standardized(inner)
    params = made(net, X)
    own = dict(params)
    for name in ("layer_0", "layer_1"):
        kernel = np.asarray(params[name]["kernel"], np.float64)
        mean, variance = (f(kernel, axis=(0, 1, 2)) for f in (np.mean, np.var))
        kernel = (kernel - mean) / np.sqrt(variance + 1e-5)
        own[name] = {**params[name], "kernel": kernel.astype(np.float32)}
    found, expected = jax.jit(net.apply)(params, X), jax.jit(inner.apply)(own, X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    normed = nets.dcgan_discriminator(width=2, norm="batch")
    fixed = jax.jit(weight_standardized(normed).standing)(made(normed, X), X[None])
    np.testing.assert_array_equal(fixed["layer_1"]["kernel"], made(normed, X)["layer_1"]["kernel"])
    assert "variance" in fixed["norm_1"]


# Orthogonality


def test_the_penalty_is_that_of_different_columns():
    random = np.random.default_rng(5)
    a, b, table = (random.normal(size=shape) for shape in ((5, 3), (2, 2, 3, 4), (6, 2)))
    total, slopes = 0.0, []
    for matrix in (a, b.reshape(12, 4)):
        gram = matrix.T @ matrix
        other = gram - np.diag(np.diag(gram))
        total += np.sum(other**2)
        slopes.append(4 * matrix @ other)
    with jax.enable_x64(True):
        params = {
            "dense": {"kernel": jnp.asarray(a), "bias": jnp.ones(3)},
            "conv": {"kernel": jnp.asarray(b)},
            "table": {"embedding": jnp.asarray(table)},
        }
        value, gradient = jax.jit(jax.value_and_grad(orthogonal_penalty))(params)
    np.testing.assert_allclose(value, total, rtol=1e-12)
    np.testing.assert_allclose(gradient["dense"]["kernel"], slopes[0], rtol=1e-10)
    np.testing.assert_allclose(gradient["conv"]["kernel"].reshape(12, 4), slopes[1], rtol=1e-10)
    assert not np.any(gradient["table"]["embedding"])
    # Vectors are no kernels; a sum of bfloat16 numbers is in float32.
    other = SpectralParams(
        {"kernel": jnp.full((2, 2), 2, jnp.bfloat16)},
        {"kernel": (jnp.ones(2), jnp.ones(2))},
    )
    assert orthogonal_penalty(other).tolist() == 2 * 8**2
    assert orthogonal_penalty(other).dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: spectral(nets.from_linen(nets.BatchNorm(), standing=True)).init(rng.root(0), X),
            "'kernel' or 'embedding' of at least two axes, got bias, scale",
        ),
        (
            lambda: spectral(nets.Net(lambda key, x: (), lambda params, x: x)).init(rng.root(0), X),
            "got no parameters",
        ),
        (
            lambda: weight_standardized(nets.mlp((), 1)).init(rng.root(0), X),
            "'kernel' of at least three axes, that of a convolution, got output.bias, output.k",
        ),
        (
            lambda: power_iteration({"a": np.ones(2)}),
            "must contain SpectralParams, .*a dict of 'a'",
        ),
        (lambda: power_iteration({}, num=0), "num must be a positive whole number, got 0"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
