"""Layer and conditional normalisation; the other normalisations are in test_nets.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import devices, nets, rng
from genmod.nets.normalization import ConditionalBatchNorm


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


# Conditions

X = 5 + 2 * np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
LABELS = np.array([1, 0, 1, 2, 0], np.int32)
OF_CLASS = nets.from_linen(ConditionalBatchNorm(3), standing=True)
OF_VECTOR = nets.from_linen(ConditionalBatchNorm(), standing=True)


def normalised(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def test_each_class_has_a_scale_and_a_bias_of_its_own():
    params = jax.jit(OF_CLASS.init)(rng.root(0), X, LABELS)
    np.testing.assert_array_equal(params["scale"], np.ones((3, 2)))
    np.testing.assert_array_equal(params["bias"], np.zeros((3, 2)))
    apply = jax.jit(OF_CLASS.apply)
    plain = nets.from_linen(nets.BatchNorm(), standing=True)
    one = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    expected = jax.jit(plain.apply)(one, X)
    np.testing.assert_allclose(apply(params, X, LABELS), expected, rtol=1e-5, atol=1e-6)
    scale, bias = np.random.default_rng(1).normal(size=(2, 3, 2)).astype(np.float32)
    y = apply({"scale": scale, "bias": bias}, X, LABELS)
    for i, label in enumerate(LABELS):
        expected = normalised(X)[i] * scale[label] + bias[label]
        np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=1e-5)


def test_a_vector_scales_and_shifts_linearly():
    c = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    params = jax.jit(OF_VECTOR.init)(rng.root(0), X, c)
    assert not any(map(np.any, params.values()))
    assert {leaf.shape for leaf in params.values()} == {(4, 2)}
    scale, bias = np.random.default_rng(3).normal(size=(2, 4, 2)).astype(np.float32)
    y = jax.jit(OF_VECTOR.apply)({"scale": scale, "bias": bias}, X, c)
    factor, shift = (1 + c @ scale)[:, None, None], (c @ bias)[:, None, None]
    np.testing.assert_allclose(y, normalised(X) * factor + shift, rtol=1e-4, atol=1e-4)


def test_statistics_of_conditional_normalisation_are_shared_and_can_stand():
    scale, bias = np.random.default_rng(1).normal(size=(2, 3, 2)).astype(np.float32)
    params = {"scale": scale, "bias": bias}
    batches, labels = np.stack([X, 3 * X]), np.stack([LABELS, LABELS[::-1]])
    fixed = jax.jit(OF_CLASS.standing)(params, batches, labels)
    wide = batches.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(fixed["mean"], wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fixed["variance"], wide.var(0), rtol=1e-5)
    some = jax.jit(OF_CLASS.apply)(fixed, X[3:4], LABELS[3:4])
    expected = (X[3:4] - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5) * scale[2] + bias[2]
    np.testing.assert_allclose(some, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "c", "message"),
    [
        (OF_CLASS, LABELS + 1, r"labels must be in \[0, 3\), .* got values from 1 to 3"),
        (OF_CLASS, LABELS[:4], r"one for each of 5 examples, got an array int32 \[4\]"),
        (OF_CLASS, np.ones(5, np.float32), "labels must be whole numbers"),
        (OF_VECTOR, LABELS, "got an array int32 .* give the number of classes"),
        (OF_VECTOR, None, "must hold at least one array, got None"),
    ],
)
def test_wrong_conditions_of_a_normalisation_are_refused(net, c, message):
    with pytest.raises(ValueError, match=message):
        net.init(rng.root(0), X, c)


def test_an_unknown_label_becomes_nan_and_a_microbatch_is_refused():
    params = {"scale": jnp.ones((3, 2)), "bias": jnp.zeros((3, 2))}
    y = jax.jit(OF_CLASS.apply)(params, X, LABELS + 1)
    assert np.isnan(y).all((1, 2, 3)).tolist() == [False, False, False, True, False]
    with devices.microbatch(), pytest.raises(ValueError, match="microbatches must be 1"):
        OF_CLASS.apply(params, X, LABELS)
    with devices.batch_statistics() as layers:
        jax.eval_shape(lambda params: OF_CLASS.apply(params, X, LABELS), params)
    assert layers == ["ConditionalBatchNorm"]
