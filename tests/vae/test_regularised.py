"""Regularised autoencoders, against derivatives by autodiff and sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import nets, rng, vae
from genmod.vae.regularised import regularised

B, L, SHAPE = 3, 2, (4, 4, 1)
X = np.random.default_rng(0).uniform(size=(B, *SHAPE)).astype(np.float32)
MODEL = vae.make(
    nets.mlp((4,), 2 * L, activation=jnp.tanh),
    nets.mlp((5,), SHAPE, activation=jnp.tanh),
    latent_dim=L,
)
PARAMS = jax.jit(MODEL.init)(rng.root(0), X)


def keys(seed=1):
    return rng.per_example(rng.root(seed), B)


def values(objective, seed=1, params=PARAMS):
    return jax.jit(objective)(keys(seed), params, X)


def codes():
    return jax.jit(MODEL.encode)(PARAMS, X)[0]


@jax.jit
def reconstruction():
    z = MODEL.encode(PARAMS, X)[0]
    return -MODEL.likelihood.log_prob(MODEL.decode(PARAMS, z), X)


@pytest.mark.parametrize("penalty", ["l2", "gradient"])
def test_without_weights_it_is_a_plain_autoencoder(penalty):
    objective = regularised(MODEL, code_weight=0, penalty=penalty, penalty_weight=0)
    loss, aux = values(objective)
    np.testing.assert_allclose(loss, reconstruction(), rtol=1e-5)
    np.testing.assert_array_equal(loss, aux["reconstruction"])


def test_the_loss_has_the_norms_of_codes_and_decoder():
    objective = regularised(MODEL, code_weight=0.3, penalty="l2", penalty_weight=0.01)
    loss, aux = values(objective)
    norm = 0.5 * np.square(codes()).sum(1)
    squares = sum(np.square(leaf).sum() for leaf in jax.tree.leaves(PARAMS.decoder))
    np.testing.assert_allclose(aux["code_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(aux["penalty"], np.full(B, squares), rtol=1e-5)
    np.testing.assert_allclose(loss, reconstruction() + 0.3 * norm + 0.01 * squares, rtol=1e-5)
    again, _ = values(objective, seed=2)
    np.testing.assert_array_equal(again, loss, "there is nothing random")

    found = jax.grad(lambda p: values(objective, params=p)[0].sum())(PARAMS)
    plain = regularised(MODEL, code_weight=0.3, penalty="l2", penalty_weight=0.0)
    usual = jax.grad(lambda p: values(plain, params=p)[0].sum())(PARAMS)
    decay = jax.tree.map(lambda total, own: total - own, found.decoder, usual.decoder)
    for one, leaf in zip(*map(jax.tree.leaves, (decay, PARAMS.decoder)), strict=True):
        np.testing.assert_allclose(one, B * 0.02 * leaf, atol=1e-5)
    kernel = found.encoder["output"]["kernel"]
    assert np.abs(kernel[:, :L]).min() > 0
    np.testing.assert_array_equal(kernel[:, L:], 0, "the variances play no part")


def test_the_gradient_penalty_is_on_average_the_norm_of_the_derivatives():
    objective = regularised(MODEL, code_weight=0.3, penalty="gradient", penalty_weight=2.0)
    loss, aux = values(objective)
    rest = reconstruction() + 0.3 * aux["code_norm"]
    np.testing.assert_allclose(loss, rest + 2 * aux["penalty"], rtol=1e-5)

    def image(z):
        return vae.decode_mean(MODEL)(PARAMS, z[None])[0]

    slopes = np.asarray(jax.vmap(jax.jacrev(image))(codes()), np.float64).reshape(B, -1, L)
    exact = np.square(slopes).sum((1, 2))
    # Signs in two dimensions: the two columns are added, or subtracted.
    either = np.square(slopes[..., 0] + slopes[..., 1]).sum(1), 2 * exact
    either = either[0], either[1] - either[0]
    called = jax.jit(objective)
    many = [called(keys(seed), PARAMS, X)[1]["penalty"] for seed in range(40)]
    near = np.stack([np.isclose(many, one, rtol=1e-4) for one in either])
    assert near.any(0).all()
    share = near[0].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(near[0].size)
    np.testing.assert_allclose(np.mean(either, axis=0), exact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_weight": -1}, "code_weight must be a number of at least 0"),
        ({"penalty_weight": -1}, "penalty_weight must be a number of at least 0"),
        ({"penalty": "L2"}, "unknown penalty 'L2'; did you mean 'l2'"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        regularised(MODEL, **{"code_weight": 1, "penalty": "l2", "penalty_weight": 1, **changes})


def test_each_image_has_a_key():
    objective = regularised(MODEL, code_weight=1, penalty="l2", penalty_weight=1)
    with pytest.raises(ValueError, match=r"keys must be one per example, \[3\], got \[1\]"):
        objective(keys()[:1], PARAMS, X)
