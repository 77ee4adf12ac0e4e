"""Bounds by several draws, and their gradients, on a VAE whose likelihood is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from genmod import rng, vae
from genmod.types import Net

# The columns are orthogonal, so that the true posterior is diagonal.
WEIGHTS = np.array([[1.0, 0.5], [-0.5, 1.0], [0.2, 0.0], [0.0, 0.3]], np.float32)
NOISE = np.float32(0.7)
X = np.array([[0.5, -1.0, 2.0, 0.1], [0.0, 0.3, -0.4, 1.0]], np.float32)
PRECISION = 1 + (WEIGHTS**2).sum(0) / NOISE**2
TRUE = {"means": WEIGHTS / NOISE**2 / PRECISION, "logvars": -np.log(PRECISION)}
# An encoder near the truth, yet another: its means are shrunk, its variances are too large.
NEAR = {"means": 0.8 * TRUE["means"], "logvars": TRUE["logvars"] + 0.5}


def likelihood():
    def log_prob(mean, x):
        return vae.log_normal(x, mean, 2 * np.log(NOISE))

    return vae.Likelihood(log_prob, mean=lambda mean: mean)


def encoded(params, x):
    logvars = jnp.broadcast_to(params["logvars"], (len(x), 2))
    return jnp.concatenate([x @ params["means"], logvars], axis=1)


ENCODER = Net(lambda key, x: jax.tree.map(jnp.asarray, NEAR), encoded)
DECODER = Net(lambda key, z: jnp.asarray(WEIGHTS), lambda weights, z: z @ weights.T)
MODEL = vae.make(ENCODER, DECODER, latent_dim=2, likelihood=likelihood())
PARAMS = MODEL.init(rng.root(0), X)
EVIDENCE = stats.multivariate_normal(
    np.zeros(4), WEIGHTS.astype(float) @ WEIGHTS.T + NOISE.astype(float) ** 2 * np.eye(4)
).logpdf(X)


def keys(seed=1, num=2):
    return rng.per_example(rng.root(seed), num)


def log_weights(num):
    """Log weights of the draws that an objective with these keys makes, [num, 2]."""
    own = keys()
    weight = vae.log_weight(MODEL)
    return np.stack([weight(rng.at_step(own, k), PARAMS, X) for k in range(num)]).astype(float)


def gradients(objective, params=PARAMS):
    return jax.jit(jax.grad(lambda p: objective(keys(), p, X)[0].sum()))(params)


def close(found, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), found, expected
    )


@functools.cache
def encoder_gradients(make, num=20_000, params=None):
    """The encoder's gradient at many draws of the first image, float64 [num, 10]."""
    objective = make()

    def one(key):
        def loss(encoder):
            return objective(key[None], PARAMS._replace(encoder=encoder), X[:1])[0][0]

        found = jax.grad(loss)(PARAMS.encoder)
        return jnp.concatenate([found["means"].ravel(), found["logvars"]])

    return np.asarray(jax.jit(jax.vmap(one))(keys(2, num)), np.float64)


@pytest.mark.costly
def test_losses_are_those_of_the_log_weights():
    log_w = log_weights(6)
    log_mean = functools.partial(special.logsumexp, axis=0)
    groups = log_w.reshape(2, 3, 2)
    expected = {
        vae.iwae(MODEL, num_samples=1): -log_w[0],
        vae.iwae(MODEL, num_samples=6): np.log(6) - log_mean(log_w),
        vae.miwae(MODEL, num_groups=2, num_samples=3): (
            np.log(3) - np.mean([log_mean(group) for group in groups], axis=0)
        ),
        vae.piwae(MODEL, num_groups=2, num_samples=3): np.log(6) - log_mean(log_w),
        vae.ciwae(MODEL, num_samples=6, beta=0.3): (
            -0.3 * log_w.mean(0) + 0.7 * (np.log(6) - log_mean(log_w))
        ),
        vae.iwae(MODEL, num_samples=6, estimator="dreg"): np.log(6) - log_mean(log_w),
        vae.iwae(MODEL, num_samples=6, estimator="stl"): np.log(6) - log_mean(log_w),
    }
    for objective, losses in expected.items():
        found, aux = objective(keys(), PARAMS, X)
        np.testing.assert_allclose(found, losses, rtol=1e-5)
    np.testing.assert_allclose(-(aux["reconstruction"] + aux["kl"]), log_w.mean(0), rtol=1e-5)


def test_the_bound_rises_with_the_draws_up_to_the_evidence():
    many = np.tile(X, (4000, 1))
    found = []
    for num_samples in (1, 5, 50):
        loss = jax.jit(vae.iwae(MODEL, num_samples=num_samples))(keys(1, len(many)), PARAMS, many)
        values = -np.asarray(loss[0], np.float64).reshape(-1, 2)
        found.append((values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))))
    (one, _), (five, _), (fifty, error) = found
    assert np.all(one < five)
    assert np.all(five < fifty)
    assert np.all(fifty < EVIDENCE + 4 * error)
    assert np.all(EVIDENCE - fifty < 0.1)


@pytest.mark.costly
def test_each_bound_is_another_at_its_ends():
    iwae = gradients(vae.iwae(MODEL, num_samples=6))
    elbo = gradients(vae.miwae(MODEL, num_groups=6, num_samples=1))
    close(gradients(vae.miwae(MODEL, num_groups=1, num_samples=6)), iwae)
    close(gradients(vae.piwae(MODEL, num_groups=1, num_samples=6)), iwae)
    close(gradients(vae.ciwae(MODEL, num_samples=6, beta=0)), iwae)
    close(gradients(vae.ciwae(MODEL, num_samples=6, beta=1)), elbo)
    partial = gradients(vae.piwae(MODEL, num_groups=2, num_samples=3))
    close(partial.decoder, iwae.decoder)
    close(partial.encoder, gradients(vae.miwae(MODEL, num_groups=2, num_samples=3)).encoder)
    for estimator in ("stl", "dreg"):
        found = gradients(vae.iwae(MODEL, num_samples=6, estimator=estimator))
        close(found.decoder, iwae.decoder)


MAKERS = {
    (name, num): functools.partial(vae.iwae, MODEL, num_samples=num, estimator=name)
    for name in ("standard", "stl", "dreg")
    for num in (1, 5, 60)
}


@pytest.mark.parametrize(("name", "num"), [("stl", 1), ("dreg", 1), ("dreg", 5)])
def test_other_estimators_have_the_gradient_in_expectation(name, num):
    usual, other = (encoder_gradients(MAKERS[which, num]) for which in ("standard", name))
    error = np.sqrt((usual.var(0, ddof=1) + other.var(0, ddof=1)) / len(usual))
    assert np.all(np.abs(usual.mean(0) - other.mean(0)) < 4 * error + 1e-6)
    assert other.var(0).sum() < usual.var(0).sum()


def test_sticking_the_landing_is_biased_for_several_draws():
    usual, other = (encoder_gradients(MAKERS[which, 5]) for which in ("standard", "stl"))
    error = np.sqrt((usual.var(0, ddof=1) + other.var(0, ddof=1)) / len(usual))
    assert np.max(np.abs(usual.mean(0) - other.mean(0)) / error) > 6


def signal_to_noise(name, num):
    found = encoder_gradients(MAKERS[name, num])
    return np.median(np.abs(found.mean(0)) / found.std(0))


def test_the_encoders_signal_fades_with_more_draws_unless_doubly_reparametrised():
    assert signal_to_noise("standard", 60) < 0.6 * signal_to_noise("standard", 1)
    assert signal_to_noise("dreg", 60) > signal_to_noise("dreg", 1)


def test_at_the_true_posterior_the_other_estimators_have_no_noise():
    params = PARAMS._replace(encoder=jax.tree.map(jnp.asarray, TRUE))
    for name, num in (("stl", 1), ("stl", 5), ("dreg", 5)):
        found = gradients(MAKERS[name, num](), params).encoder
        close(found, jax.tree.map(jnp.zeros_like, found))
    usual = gradients(MAKERS["standard", 1](), params).encoder
    assert np.abs(usual["logvars"]).max() > 0.05


def test_each_example_has_draws_of_its_own():
    own = keys()
    with pytest.raises(ValueError, match=r"keys must be one per example, \[2\], got \[1\]"):
        vae.iwae(MODEL, num_samples=3)(own[:1], PARAMS, X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vae.iwae(MODEL, num_samples=0), "num_samples must be a positive"),
        (
            lambda: vae.iwae(MODEL, num_samples=2, estimator="drag"),
            "unknown estimator 'drag'; did you mean 'dreg'",
        ),
        (lambda: vae.miwae(MODEL, num_groups=0, num_samples=1), "num_groups must be a positive"),
        (lambda: vae.piwae(MODEL, num_groups=1, num_samples=1.5), "num_samples must be a positive"),
        (lambda: vae.ciwae(MODEL, num_samples=2, beta=1.1), r"beta must be a number in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
